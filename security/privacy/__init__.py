"""Privacy budgets that can be proved: what was released, with how much noise, and what that adds up to.

`ledger` writes down what an owner of patients spends, before anything leaves; `exports` verifies such ledgers from
files, without a network and without keys. Byte formats are normative in `security/SPEC.md` 13.
"""
