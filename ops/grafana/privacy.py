"""The dashboard of privacy: what has been spent, by whom, and over how many sites sums were made.

At a hospital it shows that hospital alone, at the coordinator the lead and the cohort: nobody's Prometheus has the
budgets of all, but the demo's.
"""

from __future__ import annotations

from ops.grafana.layout import Dashboard, Row, Variable
from ops.grafana.panels import GREEN, GREY, ORANGE, RED, YELLOW, Kind, Panel, Query

_C, _A = "fedmepd_coordinator_", "fedmepd_agent_"
_LEAD = 'instance=~"$coordinator"'
_NAMED = f' * on (job, instance) group_left (site) {_A}site_info{{site=~"$site"}}'
_SPENT = ((0, GREEN), (0.8, YELLOW), (1, RED))


def _owners(name: str, what: str) -> tuple[Query, ...]:
    """Return a figure of the lead and of each site."""
    return (
        Query(expr=f"{_C}{name}{{{_LEAD}}}", legend=f"lead{what}"),
        Query(expr=f"{_A}{name}{_NAMED}", legend=f"{{{{site}}}}{what}"),
    )


_BUDGET = Row(
    title="Budgets",
    panels=(
        Panel(
            kind=Kind.BARS,
            title="Share of the budget that is spent",
            about="Epsilon spent of epsilon allowed, by owner. A release that would pass 100 % is refused before it, "
            "so a budget that covers nothing more stays below it: look at Refusals. Nothing without a budget.",
            queries=(
                Query(expr=f"fedmepd_coordinator:privacy_epsilon:ratio{{{_LEAD}}}", legend="lead"),
                Query(expr=f"fedmepd_agent:privacy_epsilon:ratio{_NAMED}", legend="{{site}}"),
            ),
            unit="percentunit",
            bounds=(0, 1),
            thresholds=_SPENT,
        ),
        Panel(
            kind=Kind.LINES,
            title="Epsilon spent",
            about="Of all releases about the owner's patients, composed. It never falls.",
            queries=_owners("privacy_epsilon_spent", ""),
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.TABLE,
            title="Owners",
            about="Budget, delta and entries of the ledger of each site in this Prometheus.",
            queries=(
                Query(expr=f"max by (site) ({_A}privacy_epsilon_spent{_NAMED})", legend="spent"),
                Query(expr=f"max by (site) ({_A}privacy_epsilon_budget{_NAMED})", legend="budget"),
                Query(expr=f"max by (site) ({_A}privacy_delta{_NAMED})", legend="delta", unit="sci"),
                Query(expr=f"max by (site) ({_A}privacy_ledger_entries{_NAMED})", legend="entries"),
                Query(
                    expr=f"max by (site) ({_A}privacy_unbounded{_NAMED})",
                    legend="unbounded",
                    colours=((0, GREEN), (1, RED)),
                ),
            ),
            keys=("site",),
        ),
        Panel(
            kind=Kind.STAT,
            title="Budget of the lead",
            about="Epsilon spent and allowed, and delta, at the coordinator.",
            queries=tuple(
                Query(expr=f"{_C}privacy_{name}{{{_LEAD}}}", legend=legend)
                for name, legend in (("epsilon_spent", "spent"), ("epsilon_budget", "budget"), ("delta", "delta"))
            ),
        ),
        Panel(
            kind=Kind.STATES,
            title="Used without a bound",
            about="Red: patients were used without a guarantee, whatever was spent. Meant so in open runs.",
            queries=_owners("privacy_unbounded", ""),
            texts={0: ("no", GREEN), 1: ("unbounded", ORANGE)},
        ),
        Panel(
            kind=Kind.LINES,
            title="Entries of the ledgers",
            about="Every release and every intent is an entry; entries are never removed.",
            queries=_owners("privacy_ledger_entries", ""),
            bounds=(0, None),
            decimals=0,
        ),
    ),
)

_MECHANISMS = Row(
    title="Mechanisms",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="Releases",
            about="Releases in the ledger, by owner and mechanism: anchors of the lead, training of everybody.",
            queries=_owners("privacy_releases_total", " {{mechanism}}"),
            width=12,
            bounds=(0, None),
            decimals=0,
        ),
        Panel(
            kind=Kind.LINES,
            title="Refusals",
            about="Releases that budget or policy did not allow. Refusals are the budget at work, and cost rounds.",
            queries=_owners("privacy_refusals_total", " {{mechanism}}"),
            width=12,
            bounds=(0, None),
            decimals=0,
        ),
    ),
)

_COHORT = Row(
    title="Cohort sizes",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="Sites in the last sum, against the minimum",
            about="The coordinator sees sums over at least the signed minimum of sites, and no single update.",
            queries=(
                Query(expr=f"{_C}cohort_last{{{_LEAD}}}", legend="last sum"),
                Query(expr=f"{_C}cohort_scored{{{_LEAD}}}", legend="with scores"),
                Query(expr=f"{_C}cohort_minimum{{{_LEAD}}}", legend="minimum"),
            ),
            width=12,
            bounds=(0, None),
            decimals=0,
        ),
        Panel(
            kind=Kind.LINES,
            title="Sites in the last sum by modality",
            about="What belongs to a modality is summed over its owners alone: the smaller crowd.",
            queries=(
                Query(
                    expr=f'{_C}modality_participants{{{_LEAD}, stage="contributed"}}',
                    legend="{{modality}}",
                ),
                Query(expr=f"{_C}cohort_minimum{{{_LEAD}}}", legend="minimum"),
            ),
            width=12,
            bounds=(0, None),
            decimals=0,
        ),
        Panel(
            kind=Kind.STATES,
            title="Approvals waiting at sites",
            about="Sites whose policy leaves something to a person, and that wait for one.",
            queries=(Query(expr=f"({_A}approvals_waiting > bool 0){_NAMED}", legend="{{site}}"),),
            texts={0: ("none", GREY), 1: ("waiting", ORANGE)},
            width=12,
        ),
        Panel(
            kind=Kind.LINES,
            title="Audit records",
            about="Records of the coordinator's audit log; every decision about members, runs and privacy is one.",
            queries=(Query(expr=f"{_C}audit_records_total{{{_LEAD}}}", legend="records"),),
            width=12,
            bounds=(0, None),
            decimals=0,
        ),
    ),
)

DASHBOARD = Dashboard(
    uid="privacy",
    title="Privacy",
    about="Epsilon spent and allowed by owner, mechanisms, cohort sizes.",
    variables=(
        Variable(
            name="coordinator",
            label="Coordinators",
            about="Which coordinators",
            series=f"{_C}build_info",
            of="instance",
            several=True,
        ),
        Variable(name="site", label="Sites", about="Which sites", series=f"{_A}site_info", of="site", several=True),
    ),
    rows=(_BUDGET, _MECHANISMS, _COHORT),
)
