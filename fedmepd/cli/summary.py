"""The table at the end of a run: mean test Dice of every member under every method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from fedmepd.evaluation import CaseScore

_SERVER = "server"
_BASELINE = "local"


def summary_rows(scores: Mapping[str, list[CaseScore]], *, seed: int) -> list[dict[str, Any]]:
    """Return mean Dice and its 95 % interval per method, member and region."""
    from fedmepd.evaluation import summarise

    return [
        {
            "method": method,
            "member": row.member,
            "region": row.region,
            "cases": row.cases,
            "dice": row.dice.mean,
            "low": row.dice.low,
            "high": row.dice.high,
        }
        for method, found in scores.items()
        for row in summarise(found, seed=seed)
    ]


def print_summary(scores: Mapping[str, list[CaseScore]], *, seed: int) -> None:
    """Print the table, and how the methods compare with training alone."""
    from fedmepd.evaluation import MEAN_REGION, compare

    if not any(scores.values()):
        Console().print("No test scores: the configuration sets no test cases aside (split.test = 0).")
        return
    rows = [row for row in summary_rows(scores, seed=seed) if row["region"] == MEAN_REGION]
    members = list(dict.fromkeys(row["member"] for row in rows))
    table = Table(title="Mean Dice over regions on the held-out test cases", title_justify="left")
    table.add_column("member")
    for method in scores:
        table.add_column(method, justify="right")
    by_place = {(row["member"], row["method"]): row["dice"] for row in rows}
    for member in members:
        table.add_row(member, *(f"{by_place[member, method]:.3f}" for method in scores))
    sites = [member for member in members if member != _SERVER]
    table.add_section()
    averages = {method: sum(by_place[site, method] for site in sites) / max(len(sites), 1) for method in scores}
    table.add_row("mean of sites", *(f"{averages[method]:.3f}" for method in scores), style="bold")
    console = Console()
    console.print(table)
    for method in scores:
        if method != _BASELINE and _BASELINE in scores:
            difference = compare(_of_sites(scores[method]), _of_sites(scores[_BASELINE]), seed=seed)
            if difference is not None:
                d = difference.dice
                console.print(
                    f"Sites, {method} against {_BASELINE}: {d.mean:+.3f} Dice per test case "
                    f"(95 % interval {d.low:+.3f} to {d.high:+.3f}; better in {difference.won}, "
                    f"worse in {difference.lost} of {difference.cases} cases)"
                )


def _of_sites(scores: list[CaseScore]) -> list[CaseScore]:
    return [score for score in scores if score.member != _SERVER]
