"""The privacy budget of the lead hospital's patients: kept, spent, shown to others (SPEC 13).

`claims` says what a run's rounds cost, `checks` which plans go with a budget, `custody` holds the ledger, `keeper` puts
a debit before each of the lead's jobs and a release before each publication, and `witness` keeps heads of others'
ledgers. Epsilon is computed by the lead's worker; this process loads no accountant.
"""

from coordinator.budgets.custody import Custody, Spending
from coordinator.budgets.keeper import Keeper
from coordinator.budgets.witness import Witness

__all__ = ["Custody", "Keeper", "Spending", "Witness"]
