"""What the entries of a ledger say, as texts and back (SPEC 13.5).

Guarantees that each meaning has one spelling: a body that is read is the one that would be written. Whether it may
stand where it stands says `standing`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from security.errors import LedgerError, SecurityError
from security.identity import Identity
from security.privacy.heads import Head
from security.privacy.terms import Budget, Claim, check_digest

_WHOLE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_HEAD = re.compile(rf"({_WHOLE.pattern}) ([0-9a-f]{{64}}) ([0-9a-f]{{64}}) ([0-9a-f]{{128}})", re.ASCII)
_TRUTHS = {"true": True, "false": False}
_DEBIT = ("mechanism", "run", "round", "noise", "clip", "rate", "steps", "patients", "conditional", "recipients")


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a debit says.

    Attributes:
        claim: What is released.
        budget: The budget in force.
        spent: Epsilon of all debits up to this one, at the budget's delta.
    """

    claim: Claim
    budget: Budget
    spent: float


def write_opening(owner: Identity, key: bytes) -> dict[str, str]:
    """Return the body of an `opened` entry."""
    return {"owner": owner.uri, "consortium": owner.consortium, "key": key.hex()}


def read_opening(body: Mapping[str, str]) -> tuple[Identity, bytes]:
    """Return owner and public key.

    Raises:
        LedgerError: If the body is malformed.
    """
    with _Reading(body, "owner", "consortium", "key"):
        owner = Identity.parse(body["owner"])
        if owner.consortium != body["consortium"]:
            raise ValueError("the owner is of another consortium")
        check_digest(body["key"])
        return owner, bytes.fromhex(body["key"])


def write_budgets(new: Budget | None, old: Budget | None) -> dict[str, str]:
    """Return the body of a `budget` entry."""
    return _budget(new, "") | _budget(old, "old_")


def read_budgets(body: Mapping[str, str]) -> tuple[Budget | None, Budget | None]:
    """Return the new and the old budget.

    Raises:
        LedgerError: If the body is malformed.
    """
    with _Reading(body, "epsilon", "delta", "old_epsilon", "old_delta"):
        return _read_budget(body, ""), _read_budget(body, "old_")


def write_charge(charge: Charge) -> dict[str, str]:
    """Return the body of a `debit` entry."""
    claim = charge.claim
    return _budget(charge.budget, "") | {
        "key": claim.key,
        "mechanism": claim.mechanism,
        "run": claim.run,
        "round": str(claim.round_number),
        "noise": repr(float(claim.noise)),
        "clip": repr(float(claim.clip)),
        "rate": repr(float(claim.rate)),
        "steps": str(claim.steps),
        "patients": str(claim.patients),
        "conditional": "true" if claim.conditional else "false",
        "recipients": claim.recipients,
        "spent": repr(float(charge.spent)),
    }


def read_charge(body: Mapping[str, str]) -> Charge:
    """Return what a `debit` entry says.

    Raises:
        LedgerError: If the body is malformed.
    """
    with _Reading(body, "key", *_DEBIT, "epsilon", "delta", "spent"):
        claim = Claim(
            key=body["key"],
            mechanism=body["mechanism"],
            run=body["run"],
            round_number=_whole(body["round"]),
            noise=_number(body["noise"]),
            clip=_number(body["clip"]),
            rate=_number(body["rate"]),
            steps=_whole(body["steps"]),
            patients=_whole(body["patients"]),
            conditional=_TRUTHS[body["conditional"]],
            recipients=body["recipients"],
        )
        budget = Budget(epsilon=_number(body["epsilon"]), delta=_number(body["delta"]))
        return Charge(claim=claim, budget=budget, spent=_number(body["spent"]))


def read_release(body: Mapping[str, str]) -> tuple[str, str]:
    """Return key and SHA-256 of a `release` entry.

    Raises:
        LedgerError: If the body is malformed.
    """
    with _Reading(body, "key", "sha256"):
        check_digest(body["key"])
        check_digest(body["sha256"])
        return body["key"], body["sha256"]


def read_unaccounted(body: Mapping[str, str]) -> tuple[str, str]:
    """Return run and mechanism of an `unaccounted` entry.

    Raises:
        LedgerError: If the body is malformed.
    """
    with _Reading(body, "run", "mechanism", "why"):
        return body["run"], body["mechanism"]


def write_heads(heads: Iterable[Head]) -> dict[str, str]:
    """Return the body of a `witness` entry."""
    return {head.owner: f"{head.sequence} {head.hash} {head.key.hex()} {head.signature.hex()}" for head in heads}


def read_heads(body: Mapping[str, str]) -> tuple[Head, ...]:
    """Return the heads of a `witness` entry; their signatures are not looked at.

    Raises:
        LedgerError: If the body is malformed.
    """
    with _Reading(body, *body):
        found = [_read_head(owner, said) for owner, said in body.items()]
        if not found:
            raise ValueError("it names no heads")
        return tuple(found)


class _Reading:
    """Turns whatever is wrong with a body into one kind of error."""

    def __init__(self, body: Mapping[str, str], *names: str) -> None:
        self._known = body.keys() == set(names)

    def __enter__(self) -> None:
        if not self._known:
            raise LedgerError("its body does not have the fields of its kind")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SecurityError):
            raise LedgerError(f"its body is malformed: {error.problem}", remedy=error.remedy) from None
        if isinstance(error, (ValueError, KeyError)):
            raise LedgerError(f"its body is malformed: {error}") from None


def _budget(budget: Budget | None, prefix: str) -> dict[str, str]:
    values = ("", "") if budget is None else (repr(float(budget.epsilon)), repr(float(budget.delta)))
    return {f"{prefix}epsilon": values[0], f"{prefix}delta": values[1]}


def _read_budget(body: Mapping[str, str], prefix: str) -> Budget | None:
    epsilon, delta = body[f"{prefix}epsilon"], body[f"{prefix}delta"]
    return Budget(epsilon=_number(epsilon), delta=_number(delta)) if epsilon or delta else None


def _read_head(owner: str, said: str) -> Head:
    match = _HEAD.fullmatch(said)
    if match is None:
        raise ValueError(f"{said[:40]!r} is not how a head is written")
    sequence, digest, key, signature = match.groups()
    return Head(
        owner=owner,
        key=bytes.fromhex(key),
        sequence=int(sequence),
        hash=digest,
        signature=bytes.fromhex(signature),
    )


def _number(said: str) -> float:
    value = float(said)
    if repr(value) != said:
        raise ValueError(f"{said[:40]!r} is not how that number is written")
    return value


def _whole(said: str) -> int:
    if not _WHOLE.fullmatch(said):
        raise ValueError(f"{said[:40]!r} is not how a whole number is written")
    return int(said)
