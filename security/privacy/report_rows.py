"""A privacy report as tables of words: for a terminal, for the page, and as plain data.

Figures that bound from above are rounded up, those that bound from below or say what is left are rounded down: what is
printed is never better than what holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from security.identity import Identity, Role
from security.privacy import report_words as words
from security.privacy.report import UNBOUNDED, OwnerReport, Releases, Report, Use
from security.privacy.report_words import when
from security.privacy.terms import Budget

_SHORT_HASH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A titled table of texts.

    Attributes:
        title: What it shows.
        columns: Headings.
        rows: Cells, as many as there are headings.
        empty: What to print if there are no rows.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str = ""


def upward(value: float) -> str:
    """Return an upper bound with two decimals, rounded up."""
    return _rounded(value, math.ceil)


def downward(value: float) -> str:
    """Return a lower bound, or what is left, with two decimals, rounded down."""
    return _rounded(value, math.floor)


def small(value: float) -> str:
    """Return a probability like 1e-5."""
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def sentence(words: str) -> str:
    """Return words with a capital letter at their beginning."""
    return words[:1].upper() + words[1:]


def period(first: datetime, last: datetime) -> str:
    """Return a period in days, or one time."""
    if when(first) == when(last):
        return when(first)
    begin, end = when(first), when(last)
    return f"{begin} to {end[len('2030-01-01 ') :]}" if begin[:10] == end[:10] else f"{begin} to {end}"


def short(digest: str) -> str:
    """Return the beginning of a hash."""
    return digest[:_SHORT_HASH]


def name_of(owner: str) -> str:
    """Return an owner's URI as `role id`; the role alone where both are the same word."""
    identity = Identity.parse(owner)
    return identity.id if identity.id == identity.role.value else f"{identity.role.value} {identity.id}"


def budget_words(budget: Budget | None) -> str:
    """Return a budget in words."""
    return "none" if budget is None else f"epsilon {budget.epsilon:g} at delta {small(budget.delta)}"


def total(owner: OwnerReport) -> str:
    """Return the owner's total: `unbounded`, a figure at the budget's delta, or that it is not known."""
    return UNBOUNDED if owner.unbounded else figure(owner)


def figure(owner: OwnerReport) -> str:
    """Return what was spent, at the budget's delta."""
    return words.NOT_KNOWN if owner.figure is None else upward(owner.figure)


def remaining(owner: OwnerReport) -> str:
    """Return what is left of the budget, at its delta."""
    if owner.budget is None:
        return "-"
    return words.NOT_KNOWN if owner.left is None else downward(owner.left)


def summary(report: Report) -> Table:
    """Return one row per owner."""
    return Table(
        title="Owners",
        columns=("owner", "total", "spent under the ledger", "budget", "left", "releases", "entries"),
        rows=tuple(
            (
                name_of(one.owner),
                total(one),
                spent(one),
                budget_words(one.budget),
                remaining(one),
                str(sum(use.released for use in one.uses)),
                f"{one.entries:,}",
            )
            for one in report.owners
        ),
        empty="No ledger.",
    )


def spent(owner: OwnerReport) -> str:
    """Return what was spent under the ledger; marked if it is conditional."""
    conditional = any(use.conditional for use in owner.uses)
    return f"{figure(owner)}{' (conditional)' if conditional else ''}"


def uses(owner: OwnerReport) -> Table:
    """Return one row per mechanism."""
    return Table(
        title="Mechanisms",
        columns=("mechanism", "debits", "released", "steps", "when", "epsilon by itself", "guarantee"),
        rows=tuple(_use(one) for one in owner.uses),
        empty="Nothing was released under this ledger.",
    )


def _use(use: Use) -> tuple[str, ...]:
    return (
        words.mechanism(use.mechanism).title,
        f"{use.debits:,}",
        f"{use.released:,}",
        f"{use.steps:,}",
        period(use.first, use.last),
        "-" if use.alone is None else upward(use.alone),
        "conditional" if use.conditional else "unconditional",
    )


def releases(owner: OwnerReport) -> Table:
    """Return one row per debit, or per series of equal debits in consecutive rounds."""
    return Table(
        title="Releases (*: conditional)",
        columns=(
            "when",
            "run",
            "rounds",
            "mechanism",
            "noise",
            "clip",
            "rate",
            "steps",
            "patients",
            "to whom",
            "released",
            "spent after",
        ),
        rows=tuple(_release(one) for one in owner.releases),
        empty="Nothing was released under this ledger.",
    )


def _release(one: Releases) -> tuple[str, ...]:
    return (
        period(one.began, one.ended),
        one.run,
        rounds(one),
        f"{words.mechanism(one.mechanism).title}{' *' if one.conditional else ''}",
        f"{one.noise:g}",
        f"{one.clip:g}",
        f"{one.rate:.3g}",
        str(one.steps) if one.debits == 1 else f"{one.debits} x {one.steps}",
        f"{one.patients:,}",
        one.recipients,
        left(one),
        upward(one.spent),
    )


def rounds(one: Releases) -> str:
    """Return the rounds of a series."""
    if one.first_round == one.last_round:
        return str(one.first_round)
    return f"{one.first_round} to {one.last_round}"


def left(one: Releases) -> str:
    """Return what left under a series of debits."""
    if not one.hashes:
        return "not released"
    if one.debits == 1:
        return short(one.hashes[0])
    return f"{len(one.hashes)} of {one.debits}, last {short(one.hashes[-1])}"


def unaccounted(owner: OwnerReport) -> Table:
    """Return one row per use without a guarantee."""
    return Table(
        title="Used without a guarantee",
        columns=("since", "run", "for", "why"),
        rows=tuple((when(one.at), one.run, one.mechanism, one.why) for one in owner.unaccounted),
        empty="No such use is noted in the ledger.",
    )


def budgets(owner: OwnerReport) -> Table:
    """Return one row per setting of the budget."""
    return Table(
        title="Budget",
        columns=("set", "before", "since"),
        rows=tuple((when(one.at), budget_words(one.old), budget_words(one.new)) for one in owner.changes),
        empty="No budget was ever set.",
    )


def heads(report: Report) -> Table:
    """Return the newest entry of each ledger, for a person to note, and what others had noted of it."""
    return Table(
        title="Newest entries",
        columns=("ledger", "entry", "at", "hash", "noted by"),
        rows=tuple(
            (
                name_of(one.owner),
                str(one.entries - 1),
                when(one.newest),
                one.head,
                ", ".join(f"{name_of(seen.by)} (entry {seen.sequence})" for seen in one.finding.seen) or "nobody",
            )
            for one in report.owners
        ),
    )


def witnessed(owner: OwnerReport) -> Table:
    """Return what this ledger notes of others."""
    return Table(
        title="Noted of others",
        columns=("ledger", "entry", "noted at", "hash"),
        rows=tuple((name_of(one.owner), str(one.sequence), when(one.at), short(one.hash)) for one in owner.witnessed),
        empty="No other ledger was seen.",
    )


def tables(owner: OwnerReport) -> tuple[Table, ...]:
    """Return all tables of one owner, in the order in which they are read."""
    return (uses(owner), releases(owner), unaccounted(owner), budgets(owner), witnessed(owner))


def remarks(report: Report, owner: OwnerReport) -> tuple[str, ...]:
    """Return what a person must know of one owner's figures beside the tables."""
    found = [f"The total is unbounded: {reason}" for reason in owner.reasons]
    if owner.budget_since is not None:
        found.append(f"No budget was in force until {when(owner.budget_since)}; what was used before is not recorded")
    if owner.stale and owner.spent_delta is not None:
        found.append(
            f"Epsilon {upward(owner.spent)} was stated at delta {small(owner.spent_delta)}; the budget's was changed "
            f"afterwards, and at it epsilon is {figure(owner)}"
        )
    if owner.unused:
        found.append(f"Debits without a release, which count as spent: {owner.unused}")
    if owner.finding.recomputed is not None:
        found.append(
            f"Recomputed by {report.accountant}: epsilon {upward(owner.finding.recomputed)}, stated "
            f"{upward(owner.spent)}"
        )
    return (*found, *owner.finding.warnings)


def mechanisms(report: Report) -> tuple[str, ...]:
    """Return the mechanisms that were used by any owner."""
    return tuple(sorted({use.mechanism for owner in report.owners for use in owner.uses}))


def coordinates(report: Report) -> bool:
    """Whether a coordinator is among the owners."""
    return any(Identity.parse(one.owner).role is Role.COORDINATOR for one in report.owners)


def anchors(report: Report) -> tuple[Releases, ...]:
    """Return the releases of anchors, which are what is attacked, in the order of owners and debits."""
    return tuple(one for owner in report.owners for one in owner.releases if one.mechanism == "anchors")


def same_noise(report: Report) -> bool:
    """Whether anchors were released with the noise and clip that were attacked."""
    bound = report.bound
    return bound is not None and any(
        math.isclose(one.noise, bound.noise, rel_tol=1e-9) and math.isclose(one.clip, bound.clip, rel_tol=1e-9)
        for one in anchors(report)
    )


def audit_command(report: Report) -> str:
    """Return the command that attacks anchors with the least noise that was used; empty if there were none."""
    released = anchors(report)
    if not released:
        return ""
    worst = min(released, key=lambda one: one.noise)
    count = sum(one.debits for one in released if (one.noise, one.clip) == (worst.noise, worst.clip))
    return f"fedmepd privacy audit --noise {worst.noise:g} --clip {worst.clip:g} --releases {count} --json > audit.json"


def attack(report: Report) -> Table:
    """Return what an attack on the mechanism achieved."""
    bound = report.bound
    if bound is None:
        command = audit_command(report)
        empty = f"No attack was carried out. Run: {command}" if command else "There are no anchors to attack."
        return Table(title="Attack on the anchor release", columns=("what", "epsilon"), rows=(), empty=empty)
    return Table(
        title="Attack on the anchor release",
        columns=("what", "epsilon"),
        rows=(
            ("lower bound, whatever the noise", downward(bound.epsilon_lower)),
            ("lower bound, if the noise is Gaussian", downward(bound.epsilon_lower_gaussian)),
            ("claimed upper bound", upward(bound.epsilon_claimed)),
            ("verdict", "consistent" if bound.consistent else "BROKEN: more is told than is claimed"),
        ),
    )


def _rounded(value: float, towards: Callable[[float], int]) -> str:
    if math.isinf(value):
        return "infinite"
    return f"{towards(round(value * 100, 6)) / 100:.2f}"  # 3.2 but for the last bit of a float stays 3.20
