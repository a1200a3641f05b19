"""From files to a report: verify ledgers, read them, say what was found.

A ledger that cannot be believed makes a report all the same, one that names the failure, shows no figure and is not to
be signed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from security.errors import LedgerError
from security.identity import Identity
from security.privacy import exports, report_rows
from security.privacy.report import Accountant, Finding, OwnerReport, Report, Sighting
from security.privacy.report_audit import Bound
from security.privacy.report_reading import owner_report
from security.privacy.terms import Event

_SAID = (
    "unbounded",
    "no release",
    "no budget",
    "delta was changed",
)  # warnings of what the report itself says, and says why


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """What ledgers are verified against.

    Attributes:
        consortium: Whose they must be; None takes that of the first.
        keys: Public keys by owner URI, as a membership list has them; None compares none.
        accountant: Recomputes epsilon; None leaves it as stated.
        accountant_name: Its name, for people.
    """

    consortium: str | None = None
    keys: Mapping[str, bytes] | None = None
    accountant: Accountant | None = None
    accountant_name: str = ""


def make_report(
    paths: Sequence[Path],
    checks: Checks,
    *,
    made: datetime,
    software: str,
    names: Mapping[Path, str] | None = None,
    bound: Bound | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Verify ledgers and return a report of them.

    Args:
        paths: Exports of any number of owners; one at least.
        checks: What to verify them against.
        made: Now.
        software: Which program makes it, for the page.
        names: What to call a file whose own name says nothing.
        bound: What an attack on the mechanism achieved.
        progress: Is told in words how far this is.

    Raises:
        OSError: If a file cannot be read.
    """
    about: dict[str, Any] = {"made": made, "software": software, "bound": bound}
    accountant = None if checks.accountant is None else _remembering(checks.accountant)
    try:
        found = exports.verify(
            paths, consortium=checks.consortium, keys=checks.keys, accountant=accountant, progress=progress
        )
        owners = tuple(_owner(one, names or {}, accountant) for one in found.ledgers)
    except LedgerError as error:
        return Report(**about, consortium=checks.consortium or "", owners=(), failure=_named(str(error), names or {}))
    return Report(
        **about,
        consortium=Identity.parse(owners[0].owner).consortium,
        owners=owners,
        keys_checked=checks.keys is not None,
        accountant=checks.accountant_name if accountant else "",
        warnings=found.warnings,
    )


def as_data(report: Report) -> dict[str, Any]:
    """Return a report as plain data, for JSON: what the page shows, unrounded."""
    found: dict[str, Any] = _plain(asdict(report))
    found["signable"] = report.signable
    for data, owner in zip(found["owners"], report.owners, strict=True):
        data |= {"total": report_rows.total(owner), "reasons": list(owner.reasons), "left": owner.left}
        del data["points"]
    return found


def _owner(found: exports.Verified, names: Mapping[Path, str], accountant: Accountant | None) -> OwnerReport:
    path = found.paths[0]
    finding = Finding(
        source=", ".join(names.get(one, one.name) for one in found.paths),
        recomputed=found.recomputed,
        seen=tuple(
            Sighting(owner=one.head.owner, by=one.witness, at=one.at, sequence=one.head.sequence, hash=one.head.hash)
            for one in found.sightings
        ),
        warnings=tuple(one for one in found.warnings if not any(words in one for words in _SAID)),
    )
    made = owner_report(exports.read(path), finding, accountant)
    if (made.entries, made.head) != (found.entries, found.head.hash):
        raise LedgerError(f"{path} changed while it was read", remedy="make a copy of it and read that")
    return made


def _remembering(accountant: Accountant) -> Accountant:
    """Return an accountant that computes once what is asked again: one mechanism by itself is often all there is."""
    known: dict[object, float] = {}

    def remembered(events: Sequence[Event], delta: float) -> float:
        counts: Counter[tuple[float, float]] = Counter()
        for event in events:
            counts[event.noise, event.rate] += event.steps
        key = (frozenset(counts.items()), delta)
        if key not in known:
            known[key] = accountant(events, delta)
        return known[key]

    return remembered


def _named(words: str, names: Mapping[Path, str]) -> str:
    for path, name in names.items():
        words = words.replace(str(path), name)
    return words


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return "infinite" if isinstance(value, float) and math.isinf(value) else value
