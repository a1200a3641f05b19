"""`fedmepd-admin policy`: under which terms a run goes on, and over how many sites anything is summed."""

from __future__ import annotations

from typing import Any

import typer

from coordinator.cli.admin import options


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(no_args_is_help=True, help="The federation policy of a run: show.")
    group.command("show")(show)
    app.add_typer(group, name="policy")


def show(identity: options.Identity, run: options.Run = "", as_json: options.Json = False) -> None:
    """Show a run's federation policy as it is in force, its smallest cohort, and what each segment tolerates.

    Segments are reckoned anew with the sites of the run that the signed list names now: after a revocation this shows
    whether the run can still be summed. A site's own policy may ask for more: fedmepd-agent policy show, there.

    Example: fedmepd-admin policy show
    """
    from coordinator.cli.admin.output import print_json
    from coordinator.cli.admin.runs import describe

    found = describe(identity, run)
    if as_json:
        print_json({"run": found["view"]["run"], **{k: v for k, v in found.items() if k not in _OTHER}})
        return
    _print(found)


_OTHER = ("view", "configuration_toml")


def _print(found: dict[str, Any]) -> None:
    from coordinator.cli.admin.output import loud, print_facts, print_table
    from coordinator.cli.admin.runs import print_segments
    from coordinator.policy import Policy

    view, cohort = found["view"], found["minimum_cohort"]
    summed = max(cohort, found["min_contributors"]) if view["aggregation"] == "secure" else found["min_contributors"]
    facts = [
        ("run", f"{view['run']} ({view['method']}, {view['aggregation']}), {view['state']}"),
        ("signed list", f"minimum cohort {cohort}" if cohort else "there is none"),
        ("a sum needs", f"{summed} sites (personalisation.min_contributors = {found['min_contributors']})"),
        ("a round needs", f"{found['needed_sites']} of {len(view['sites'])} sites"),
    ]
    print_facts(facts)
    known = Policy.model_fields
    rows = [
        (name, value.removesuffix(".0"), (known[name].description or "") if name in known else "")
        for name, value in sorted(found["policy"].items())
    ]
    print_table(("federation.", "value", "what"), rows, empty="")
    print_segments(found["segments"])
    if found["warnings"]:
        typer.echo()
    for warning in found["warnings"]:
        loud(f"WARNING: {warning.rstrip('.')}.")
