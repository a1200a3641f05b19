"""The dashboard of a federation, for its operator: asked of the Prometheus that watches the coordinator."""

from __future__ import annotations

from ops.grafana.layout import Dashboard, Row, Variable
from ops.grafana.panels import BLUE, GREEN, GREY, ORANGE, RED, YELLOW, Kind, Panel, Query
from protos.terms import Phase

_HERE = 'instance="$instance"'
_SITES = 'instance="$instance", site=~"$site"'
_C = "fedmepd_coordinator_"
_DAY = 86400
_PHASES = tuple(phase.name.lower() for phase in Phase)
_YES = {0: ("no", RED), 1: ("yes", GREEN)}
_EXPIRY = ((0, RED), (3 * _DAY, ORANGE), (14 * _DAY, GREEN))


def _one(name: str, legend: str, labels: str = _HERE) -> Query:
    return Query(expr=f"{_C}{name}{{{labels}}}", legend=legend)


_NOW = Row(
    title="Now",
    panels=(
        Panel(
            kind=Kind.STAT,
            title="Run",
            about="State of the latest run. Failed and aborted runs need an operator.",
            queries=(Query(expr=f"{_C}run_state{{{_HERE}}} == 1", legend="{{state}}"),),
            texts={1: ("now", BLUE)},
            names=True,
            width=4,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="Round",
            about="The round that is under way, of how many the run has, and which attempt at it this is.",
            queries=(_one("round_number", "round"), _one("run_rounds", "of"), _one("round_attempt", "attempt")),
            width=4,
            height=5,
            decimals=0,
        ),
        Panel(
            kind=Kind.STAT,
            title="Rounds",
            about="Attempts at rounds since the coordinator started, done and failed.",
            queries=(_one("rounds_total", "{{outcome}}"),),
            width=4,
            height=5,
            decimals=0,
        ),
        Panel(
            kind=Kind.STAT,
            title="Sites connected",
            about="Sites heard within 90 seconds, of all that are enrolled.",
            queries=(
                Query(expr=f"sum({_C}site_connected{{{_HERE}}})", legend="connected"),
                Query(expr=f"count({_C}site_connected{{{_HERE}}})", legend="enrolled"),
            ),
            width=4,
            height=5,
            decimals=0,
        ),
        Panel(
            kind=Kind.STAT,
            title="Ready",
            about="Whether every check of the coordinator holds, as /readyz says.",
            queries=(_one("ready", "ready"),),
            texts=_YES,
            thresholds=((0, RED), (1, GREEN)),
            width=4,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="Failures in a row",
            about="Attempts that failed since the last round that was done. The run fails at its limit.",
            queries=(_one("run_consecutive_failures", "failures"),),
            thresholds=((0, GREEN), (1, YELLOW), (2, RED)),
            width=4,
            height=5,
            decimals=0,
        ),
    ),
)

_ROUNDS = Row(
    title="Rounds",
    panels=(
        Panel(
            kind=Kind.STATES,
            title="Phases over time",
            about="Which phase the round is in. Short ones may fall between two scrapes; long bars take long.",
            queries=tuple(_one("round_phase", phase, f'{_HERE}, phase="{phase}"') for phase in _PHASES),
            texts={0: ("", GREY), 1: ("in it", BLUE)},
            width=16,
            height=10,
        ),
        Panel(
            kind=Kind.BARS,
            title="Last duration of each phase",
            about="How long each phase took when it was last gone through.",
            queries=(Query(expr=f"sort_desc({_C}phase_last_seconds{{{_HERE}}})", legend="{{phase}}"),),
            unit="s",
            width=8,
            height=10,
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.LINES,
            title="Mean duration of phases",
            about="By phase. Each point is the mean over a span as long as the one shown, up to then.",
            queries=(
                Query(
                    expr=f"rate({_C}phase_duration_seconds_sum{{{_HERE}}}[$__range])"
                    f" / (rate({_C}phase_duration_seconds_count{{{_HERE}}}[$__range]) > 0)",
                    legend="{{phase}}",
                ),
            ),
            unit="s",
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.LINES,
            title="Age of the present phase, and what is usual",
            about="A phase that is older than its dashed limit, and from which nothing comes, raises RoundStalled.",
            queries=(
                Query(expr=f"fedmepd_coordinator:phase_age:seconds{{{_HERE}}}", legend="{{phase}}"),
                Query(
                    expr=f"fedmepd_coordinator:phase_expected:seconds{{{_HERE}}}"
                    f" and on (instance, phase) {_C}round_phase{{{_HERE}}} == 1"
                    f' and on (instance) {_C}run_state{{{_HERE}, state="running"}} == 1',
                    legend="limit of {{phase}}",
                ),
            ),
            unit="s",
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.LINES,
            title="Failures and dropouts",
            about="Failed rounds, sites that dropped out, rounds that sites declined, updates that were refused. Each "
            "point is a sum over a span as long as the one shown, up to then; the last is all that is shown.",
            queries=(
                Query(expr=f"increase({_C}round_failures_total{{{_HERE}}}[$__range]) > 0", legend="failed: {{cause}}"),
                Query(expr=f"increase({_C}dropouts_total{{{_HERE}}}[$__range]) > 0", legend="dropped: {{status}}"),
                Query(expr=f"increase({_C}declines_total{{{_HERE}}}[$__range]) > 0", legend="declined: {{cause}}"),
                Query(
                    expr=f"increase({_C}updates_refused_total{{{_HERE}}}[$__range]) > 0", legend="refused: {{cause}}"
                ),
            ),
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.LINES,
            title="Attempts at each round",
            about="The round, and which attempt at it is under way. More than one: the attempts before have failed.",
            queries=(_one("round_number", "round"), _one("round_attempt", "attempt")),
            bounds=(0, None),
            decimals=0,
        ),
    ),
)

_COHORT = Row(
    title="Cohort",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="Participants of each modality, against the minimum",
            about="Owners of each modality still in the round. Below the signed minimum nothing of it is summed.",
            queries=(
                Query(expr=f'{_C}modality_participants{{{_HERE}, stage="active"}}', legend="{{modality}}"),
                _one("cohort_minimum", "minimum"),
            ),
            bounds=(0, None),
            decimals=0,
        ),
        Panel(
            kind=Kind.TABLE,
            title="Modalities",
            about="Sites that own each modality, are still in the round, and were in the last sum.",
            queries=tuple(
                Query(expr=f'sum by (modality) ({_C}modality_participants{{{_HERE}, stage="{stage}"}})', legend=stage)
                for stage in ("owners", "active", "contributed")
            ),
            keys=("modality",),
        ),
        Panel(
            kind=Kind.LINES,
            title="Sites of the round by status",
            about="Where the sites of the present round stand.",
            queries=(_one("participants", "{{status}}"),),
            stacked=True,
            bounds=(0, None),
            decimals=0,
        ),
    ),
)

_MODEL = Row(
    title="Model",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="Cohort-mean Dice of each region",
            about="Mean over the sites of the last sum that could be opened. Single sites' values stay at the sites.",
            queries=(_one("cohort_dice", "{{region}}"),),
            unit="percentunit",
            bounds=(0, 1),
        ),
        Panel(
            kind=Kind.LINES,
            title="Loss",
            about="Cohort-mean training loss, and the lead hospital's own.",
            queries=(_one("cohort_loss", "cohort"), _one("lead_loss", "lead")),
        ),
        Panel(
            kind=Kind.LINES,
            title="Dice of the lead hospital",
            about="Of the full model on the lead's own patients, by region.",
            queries=(_one("lead_dice", "{{region}}"),),
            unit="percentunit",
            bounds=(0, 1),
        ),
    ),
)

_SITES_ROW = Row(
    title="Sites",
    panels=(
        Panel(
            kind=Kind.TABLE,
            title="Sites",
            about="Every enrolled site: where it stands in the round, when it was heard, how long its "
            "certificate holds.",
            queries=(
                Query(
                    expr=f"max by (site, status) ({_C}site_status{{{_SITES}}} == 1)", legend="in the round", words=True
                ),
                Query(
                    expr=f"max by (site) ({_C}site_connected{{{_SITES}}})",
                    legend="connected",
                    colours=((0, RED), (1, GREEN)),
                ),
                Query(
                    expr=f"time() - max by (site) ({_C}site_last_seen_timestamp_seconds{{{_SITES}}})",
                    legend="last heard",
                    unit="s",
                    colours=((0, GREEN), (90, ORANGE), (600, RED)),
                ),
                Query(
                    expr=f"max by (site) (fedmepd_coordinator:site_certificate_left:seconds{{{_SITES}}})",
                    legend="certificate left",
                    unit="s",
                    colours=_EXPIRY,
                ),
                Query(expr=f"max by (site) ({_C}site_training_seconds{{{_SITES}}})", legend="training", unit="s"),
                Query(expr=f"max by (site) ({_C}site_upload_seconds{{{_SITES}}})", legend="upload", unit="s"),
            ),
            keys=("site", "status"),
            width=24,
        ),
        Panel(
            kind=Kind.LINES,
            title="Training of each site",
            about="How long the last training took, as the site says. The slowest decides how long a round takes.",
            queries=(_one("site_training_seconds", "{{site}}", _SITES),),
            unit="s",
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.LINES,
            title="Upload of each site",
            about="How long the last upload took.",
            queries=(_one("site_upload_seconds", "{{site}}", _SITES),),
            unit="s",
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.LINES,
            title="Received from and sent to each site",
            about="Bytes a second: up is received from the site, down is sent to it.",
            queries=(
                Query(expr=f"rate({_C}received_bytes_total{{{_SITES}}}[$__rate_interval])", legend="{{site}} up"),
                Query(expr=f"rate({_C}sent_bytes_total{{{_SITES}}}[$__rate_interval])", legend="{{site}} down"),
            ),
            unit="Bps",
            bounds=(0, None),
        ),
    ),
)

_SERVICE = Row(
    title="Service",
    panels=(
        Panel(
            kind=Kind.STATES,
            title="Checks",
            about="What readiness is made of. Red is why /readyz says no.",
            queries=(_one("check", "{{check}}"),),
            texts={0: ("failed", RED), 1: ("holds", GREEN)},
        ),
        Panel(
            kind=Kind.LINES,
            title="Uploads",
            about="Open uploads, and those of them that have not moved for a minute.",
            queries=(_one("uploads_open", "open"), _one("uploads_stalled", "stalled")),
            bounds=(0, None),
            decimals=0,
        ),
        Panel(
            kind=Kind.STATES,
            title="Trainer of the lead",
            about="Whether the trainer beside the coordinator runs, and has work.",
            queries=(_one("trainer_up", "up"), _one("trainer_busy", "busy")),
            texts={0: ("no", GREY), 1: ("yes", BLUE)},
        ),
        Panel(
            kind=Kind.LINES,
            title="Restarts of the lead's trainer",
            about="How often it began anew. Each point is a sum over a span as long as the one shown, up to then.",
            queries=(Query(expr=f"increase({_C}trainer_restarts_total{{{_HERE}}}[$__range])", legend="restarts"),),
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.LINES,
            title="Free space",
            about="Of the local volumes of the coordinator, and the reserve that each must have. Below it the "
            "coordinator is not ready, and if it is data that lacks it, uploads are refused.",
            queries=(_one("disk_free_bytes", "{{volume}}"), _one("upload_reserve_bytes", "reserve")),
            unit="bytes",
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.BARS,
            title="Certificates of the consortium",
            about="Time until the certificates of coordinator, issuer and root expire.",
            queries=(Query(expr=f"fedmepd_coordinator:certificate_left:seconds{{{_HERE}}}", legend="{{certificate}}"),),
            unit="s",
            thresholds=_EXPIRY,
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.STAT,
            title="Members",
            about="Members by state; newcomers that await approval need an administrator.",
            queries=(_one("members", "{{state}}"),),
            decimals=0,
        ),
        Panel(
            kind=Kind.LINES,
            title="Calls",
            about="Calls a second by outcome. OK is the rest of it; others are refusals and broken connections.",
            queries=(
                Query(expr=f"sum by (code) (rate({_C}rpcs_total{{{_HERE}}}[$__rate_interval]))", legend="{{code}}"),
            ),
            unit="reqps",
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.LINES,
            title="Memory",
            about="Resident memory of the coordinator. It does not grow with the number of rounds or sites.",
            queries=(Query(expr=f"process_resident_memory_bytes{{{_HERE}}}", legend="resident"),),
            unit="bytes",
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.LINES,
            title="Database",
            about="How long the last check of the database took.",
            queries=(_one("database_seconds", "check"),),
            unit="s",
            bounds=(0, None),
        ),
    ),
)

DASHBOARD = Dashboard(
    uid="federation",
    title="Federation",
    about="A federation as its operator sees it: rounds, cohort, model, sites, service; of its Prometheus.",
    variables=(
        Variable(
            name="instance",
            label="Coordinator",
            about="Which coordinator",
            series=f"{_C}build_info",
            of="instance",
        ),
        Variable(
            name="site",
            label="Sites",
            about="Which sites to show",
            series=f"{_C}site_connected{{{_HERE}}}",
            of="site",
            several=True,
        ),
    ),
    rows=(_NOW, _ROUNDS, _COHORT, _MODEL, _SITES_ROW, _SERVICE),
)
