"""The dashboard of one site, for the hospital: asked of the hospital's own Prometheus, which watches its agent.

Dice, losses and filters of a single site are here alone: the coordinator has none of them.
"""

from __future__ import annotations

from ops.grafana.layout import Dashboard, Row, Variable
from ops.grafana.panels import BLUE, GREEN, GREY, ORANGE, RED, YELLOW, Kind, Panel, Query

_HERE = 'instance="$instance"'
_A = "fedmepd_agent_"
_DAY = 86400
_YES = {0: ("no", RED), 1: ("yes", GREEN)}
_NO_YES = ((0, RED), (1, GREEN))


def _one(name: str, legend: str) -> Query:
    return Query(expr=f"{_A}{name}{{{_HERE}}}", legend=legend)


_NOW = Row(
    title="Now",
    panels=(
        Panel(
            kind=Kind.STAT,
            title="Connected",
            about="Whether the coordinator answered the last call.",
            queries=(_one("connected", "coordinator"),),
            texts=_YES,
            thresholds=_NO_YES,
            width=4,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="Ready",
            about="Whether every check of the agent holds, as /readyz says.",
            queries=(_one("ready", "ready"),),
            texts=_YES,
            thresholds=_NO_YES,
            width=4,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="Round",
            about="The last round that the site was asked into.",
            queries=(_one("round_number", "round"),),
            width=4,
            height=5,
            decimals=0,
        ),
        Panel(
            kind=Kind.STAT,
            title="Certificate holds for",
            about="Renewed by itself at two thirds of its life. Below 14 days something is wrong.",
            queries=(Query(expr=f"fedmepd_agent:certificate_left:seconds{{{_HERE}}}", legend="left"),),
            unit="s",
            thresholds=((0, RED), (3 * _DAY, ORANGE), (14 * _DAY, GREEN)),
            width=4,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="Approvals waiting",
            about="Questions that the hospital's policy leaves to a person: fedmepd-agent policy.",
            queries=(_one("approvals_waiting", "waiting"),),
            thresholds=((0, GREEN), (1, ORANGE)),
            width=4,
            height=5,
            decimals=0,
        ),
        Panel(
            kind=Kind.STAT,
            title="On the list of members",
            about="Whether the list that the consortium signed names this site as it is.",
            queries=(_one("membership_listed", "listed"),),
            texts=_YES,
            thresholds=_NO_YES,
            width=4,
            height=5,
        ),
    ),
)

_TRAINING = Row(
    title="Training",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="Dice on this hospital's patients",
            about="Of the site's own model on its own validation patients, by region. Leaves the hospital only as part "
            "of a sum over many.",
            queries=(_one("dice", "{{region}}"), _one("dice_mean", "mean")),
            unit="percentunit",
            bounds=(0, 1),
        ),
        Panel(
            kind=Kind.LINES,
            title="Training loss",
            about="Mean loss of the last training. Rising for rounds, or missing, is worth a look.",
            queries=(_one("training_loss", "loss"),),
        ),
        Panel(
            kind=Kind.BARS,
            title="Personal filters of each decoder layer",
            about="Share of filters that the site keeps to itself, by layer of its decoder.",
            queries=(_one("personal_filters_ratio", "{{layer}}"),),
            unit="percentunit",
            bounds=(0, 1),
            thresholds=((0, BLUE),),
        ),
        Panel(
            kind=Kind.STATES,
            title="What the agent does",
            about="Its activity over time.",
            queries=(_one("activity", "{{activity}}"),),
            texts={0: ("", GREY), 1: ("doing", BLUE)},
            width=16,
        ),
        Panel(
            kind=Kind.LINES,
            title="Personal filters over time",
            about="As filters become personal, the model adapts to this hospital.",
            queries=(_one("personal_filters_ratio", "{{layer}}"),),
            unit="percentunit",
            bounds=(0, 1),
        ),
        Panel(
            kind=Kind.LINES,
            title="Time of a training step",
            about="Mean time of a step. It grows when the machine is shared, or data are read slowly.",
            queries=(_one("step_seconds", "step"),),
            unit="s",
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.LINES,
            title="Training of a round",
            about="How long the last training took.",
            queries=(_one("training_seconds", "training"),),
            unit="s",
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.STAT,
            title="Rounds",
            about="Rounds by how far this site came since the agent started.",
            queries=(_one("rounds_total", "{{outcome}}"),),
            decimals=0,
        ),
    ),
)

_MACHINE = Row(
    title="Machine",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="GPU memory",
            about="In use and in all, while the trainer works. Nothing without a GPU.",
            queries=(_one("gpu_memory_used_bytes", "used"), _one("gpu_memory_size_bytes", "size")),
            unit="bytes",
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.LINES,
            title="GPU in use",
            about="Share of time in which the GPU computes. Low while training: data arrive too slowly.",
            queries=(_one("gpu_utilisation_ratio", "utilisation"),),
            unit="percentunit",
            bounds=(0, 1),
        ),
        Panel(
            kind=Kind.STATES,
            title="Trainer",
            about="Whether the trainer runs, and has work.",
            queries=(_one("trainer_up", "up"), _one("trainer_busy", "busy")),
            texts={0: ("no", GREY), 1: ("yes", BLUE)},
        ),
        Panel(
            kind=Kind.LINES,
            title="Restarts of the trainer",
            about="How often it began anew. Each point is a sum over a span as long as the one shown, up to then.",
            queries=(Query(expr=f"increase({_A}trainer_restarts_total{{{_HERE}}}[$__range])", legend="restarts"),),
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.LINES,
            title="Free space",
            about="Of the agent's volumes, and the reserve of data: below it the agent takes no part.",
            queries=(_one("disk_free_bytes", "{{volume}}"), _one("disk_reserve_bytes", "reserve")),
            unit="bytes",
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.LINES,
            title="Memory of the agent",
            about="Resident memory of the agent itself, without its trainer.",
            queries=(Query(expr=f"process_resident_memory_bytes{{{_HERE}}}", legend="resident"),),
            unit="bytes",
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.TABLE,
            title="Device and version",
            about="What training runs on, the agent's version, and the run it takes part in.",
            queries=(
                Query(
                    expr=f"max by (instance, device, name) ({_A}device_info{{{_HERE}}})",
                    legend="device known",
                    words=True,
                ),
                Query(
                    expr=f"max by (instance, version) ({_A}build_info{{{_HERE}}})", legend="version known", words=True
                ),
                Query(
                    expr=f"max by (instance, run, aggregation) ({_A}run_info{{{_HERE}}})",
                    legend="run known",
                    words=True,
                ),
            ),
            keys=("instance", "device", "name", "version", "run", "aggregation"),
            hidden=True,
        ),
    ),
)

_DATA = Row(
    title="Data",
    panels=(
        Panel(
            kind=Kind.BARS,
            title="Patients",
            about="By what they are used for. A change means that the folder of patients has changed.",
            queries=(_one("cases", "{{part}}"),),
            thresholds=((0, BLUE),),
            bounds=(0, None),
            decimals=0,
        ),
        Panel(
            kind=Kind.BARS,
            title="Patients with each modality",
            about="Modalities that this hospital shares encoders of.",
            queries=(_one("modality_cases", "{{modality}}"),),
            thresholds=((0, BLUE),),
            bounds=(0, None),
            decimals=0,
        ),
        Panel(
            kind=Kind.LINES,
            title="Declined and refused",
            about="Rounds that the site declined, and own updates that it refused to send, by cause. Each point is a "
            "sum over a span as long as the one shown, up to then.",
            queries=(
                Query(expr=f"increase({_A}declines_total{{{_HERE}}}[$__range]) > 0", legend="declined: {{cause}}"),
                Query(
                    expr=f"increase({_A}updates_refused_total{{{_HERE}}}[$__range]) > 0", legend="refused: {{cause}}"
                ),
            ),
            bounds=(0, None),
        ),
    ),
)

_LINK = Row(
    title="Connection",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="Sent and received",
            about="Bytes of artefacts a second.",
            queries=(
                Query(expr=f"rate({_A}sent_bytes_total{{{_HERE}}}[$__rate_interval])", legend="sent"),
                Query(expr=f"rate({_A}received_bytes_total{{{_HERE}}}[$__rate_interval])", legend="received"),
            ),
            unit="Bps",
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.STATES,
            title="Transfers that make no progress",
            about="Red: under way, and nothing went through for a minute.",
            queries=(_one("transfer_stalled", "{{direction}}"),),
            texts={0: ("", GREY), 1: ("stalled", RED)},
        ),
        Panel(
            kind=Kind.LINES,
            title="Stalls of transfers",
            about="How often a transfer stood still for a minute. Each point is a sum over a span as long as the one "
            "shown, up to then.",
            queries=(Query(expr=f"increase({_A}transfer_stalls_total{{{_HERE}}}[$__range])", legend="{{direction}}"),),
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.LINES,
            title="Failed calls and new connections",
            about="Calls that failed by kind, and how often the connection was made anew. Each point is a sum over a "
            "span as long as the one shown, up to then.",
            queries=(
                Query(expr=f"increase({_A}call_failures_total{{{_HERE}}}[$__range])", legend="{{kind}}"),
                Query(expr=f"increase({_A}reconnects_total{{{_HERE}}}[$__range])", legend="connected anew"),
            ),
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.LINES,
            title="Progress of transfers",
            about="How much of the artefact under way is through; nothing between transfers.",
            queries=(_one("transfer_progress_ratio", "{{direction}}"),),
            unit="percentunit",
            bounds=(0, 1),
        ),
        Panel(
            kind=Kind.LINES,
            title="Silence of the coordinator",
            about="Time since it was last heard.",
            queries=(
                Query(expr=f"time() - {_A}last_contact_timestamp_seconds{{{_HERE}}}", legend="since last contact"),
            ),
            unit="s",
            bounds=(0, None),
        ),
        Panel(
            kind=Kind.STAT,
            title="Clock",
            about="How far this host's clock is ahead of the coordinator's. From 30 s on it is worth a look.",
            queries=(_one("clock_skew_seconds", "ahead"),),
            unit="s",
            thresholds=((-1e9, RED), (-30, GREEN), (30, RED)),
        ),
        Panel(
            kind=Kind.STATES,
            title="Checks",
            about="What readiness is made of. Red is why /readyz says no.",
            queries=(_one("check", "{{check}}"),),
            texts={0: ("failed", RED), 1: ("holds", GREEN)},
            width=16,
        ),
        Panel(
            kind=Kind.GAUGE,
            title="Privacy budget spent",
            about="Share of the hospital's epsilon that is spent; nothing without a budget. More is on the dashboard "
            "Privacy.",
            queries=(Query(expr=f"fedmepd_agent:privacy_epsilon:ratio{{{_HERE}}}", legend="spent"),),
            unit="percentunit",
            bounds=(0, 1),
            thresholds=((0, GREEN), (0.8, YELLOW), (1, RED)),
        ),
    ),
)

DASHBOARD = Dashboard(
    uid="site",
    title="Site",
    about="One hospital's agent: what its model does on its patients, machine, data, connection. Of the hospital's own "
    "Prometheus.",
    variables=(
        Variable(name="site", label="Site", about="Which site", series=f"{_A}site_info", of="site"),
        Variable(
            name="instance",
            label="Agent",
            about="The agent of the site",
            series=f'{_A}site_info{{site="$site"}}',
            of="instance",
            hidden=True,
        ),
    ),
    rows=(_NOW, _TRAINING, _DATA, _LINK, _MACHINE),
)
