"""Every metric of the agent: what `/metrics` exposes, and `ops/METRICS.md` says.

What is not known is absent, never 0: a Dice before the first validation, a GPU where there is none. Nothing here is
told to the coordinator. No label holds a patient, a path or words that somebody else chose freely, but for the run's
name, the names of layers and regions, and the device's.
"""

from __future__ import annotations

from protos.metrics import Kind, Metric
from protos.terms import ActivityKind, DeclineCause

PREFIX = "fedmepd_agent_"
CHECKS = ("certificate", "coordinator", "disk", "trainer", "membership", "loop")
ACTIVITIES = tuple(kind.name.lower() for kind in ActivityKind)
DECLINES = tuple(cause.value for cause in DeclineCause)
REFUSED = ("not_finite", "norm", "range", "shape", "other")
OUTCOMES = ("trained", "submitted", "declined", "failed")
FAILURES = ("unreachable", "unauthenticated", "forbidden", "stale", "rejected", "corrupted", "incompatible")
DIRECTIONS = ("up", "down")
_PARTS = ("train", "validate", "test")
_MECHANISM = {"mechanism": ("training",)}
_DIRECTION = {"direction": DIRECTIONS}
_VOLUME = {"volume": ("data", "cache")}
_MOMENT, _S, _BYTES, _RATIO = "seconds since 1970", "seconds", "bytes", "ratio, 0 to 1"
_AGENT, _LINK, _ROUNDS, _TRAINING = "The agent", "The way to the coordinator", "Rounds", "Training"
_MACHINE, _STANDING, _PRIVACY = "The machine", "Identity and membership", "Privacy and approvals"


def _metric(group: str, name: str, about: str, unit: str = "", **more: object) -> Metric:
    kind = Kind.COUNTER if name.endswith("_total") else Kind.GAUGE
    return Metric(name=PREFIX + name, help=about, unit=unit, group=group, kind=kind, **more)  # type: ignore[arg-type]


CATALOGUE: tuple[Metric, ...] = (
    _metric(
        _AGENT,
        "build_info",
        "Always 1: release and protocol of the agent",
        labels={"version": "a release", "protocol": "a number"},
    ),
    _metric(_AGENT, "site_info", "Always 1: whose agent it is", labels={"site": "the site's id"}),
    _metric(_AGENT, "ready", "1 if every check holds, as /readyz says"),
    _metric(_AGENT, "check", "1 if the check holds", labels={"check": CHECKS}),
    _metric(_LINK, "connected", "1 if the last question for work was answered"),
    _metric(_LINK, "last_contact_timestamp_seconds", "When the coordinator was last heard", _MOMENT),
    _metric(_LINK, "reconnects_total", "Times that the coordinator was heard again after it could not be reached"),
    _metric(
        _LINK,
        "call_failures_total",
        "Calls that failed, by what the failure means to the agent",
        labels={"kind": FAILURES},
    ),
    _metric(
        _LINK,
        "clock_skew_seconds",
        "How far this machine's clock is ahead of the coordinator's; asked at each connection, and hourly",
        _S,
    ),
    _metric(_LINK, "sent_bytes_total", "Contents of artefacts that were sent, with repetitions", _BYTES),
    _metric(_LINK, "received_bytes_total", "Contents of artefacts that came, with repetitions", _BYTES),
    _metric(
        _LINK, "transfer_stalled", "1 while a transfer is under way that has not moved for 60 s", labels=_DIRECTION
    ),
    _metric(_LINK, "transfer_stalls_total", "Times that a transfer did not move for 60 s", labels=_DIRECTION),
    _metric(
        _LINK,
        "transfer_progress_ratio",
        "How much of the artefact under way is through; absent between transfers",
        _RATIO,
        labels=_DIRECTION,
    ),
    _metric(
        _ROUNDS,
        "run_info",
        "Always 1: the last run that the site was asked into",
        labels={"run": "the run's id", "aggregation": ("secure", "plain", "")},
    ),
    _metric(_ROUNDS, "round_number", "The last round that the site was asked into; absent before the first"),
    _metric(_ROUNDS, "activity", "1 for what the agent is doing, 0 for the rest", labels={"activity": ACTIVITIES}),
    _metric(
        _ROUNDS,
        "rounds_total",
        "Rounds by how far this site came: trained and submitted as the coordinator took it; declined here; "
        "failed where it was told and came too late",
        labels={"outcome": OUTCOMES},
    ),
    _metric(_ROUNDS, "declines_total", "Rounds that this site declined, by cause", labels={"cause": DECLINES}),
    _metric(
        _ROUNDS,
        "updates_refused_total",
        "Own updates that were refused here, before they left the site, by what is wrong with them",
        labels={"cause": REFUSED},
    ),
    _metric(_TRAINING, "training_loss", "Mean loss of the last training; absent where training is private"),
    _metric(
        _TRAINING,
        "dice",
        "Mean Dice on the site's own patients in the last validation of the run that run_info names",
        labels={"region": "a region"},
    ),
    _metric(_TRAINING, "dice_mean", "Mean of the regions' Dice of that validation", _RATIO),
    _metric(_TRAINING, "training_seconds", "How long the last training took", _S),
    _metric(
        _TRAINING,
        "step_seconds",
        "Mean time of a training step: of the training under way once it has made one, else of the last",
        _S,
    ),
    _metric(_TRAINING, "training_steps_total", "Training steps of rounds that were trained to the end"),
    _metric(
        _TRAINING,
        "personal_filters_ratio",
        "Share of a decoder layer's filters that are personal; absent in methods that keep none",
        _RATIO,
        labels={"layer": "a layer of the decoder"},
    ),
    _metric(
        _TRAINING,
        "cases",
        "The site's patients by what they are for, as the trainer opened them last",
        labels={"part": _PARTS},
    ),
    _metric(_TRAINING, "modality_cases", "Patients with a modality", labels={"modality": "a modality of the site"}),
    _metric(_TRAINING, "trainer_up", "1 while the trainer's process runs; it is started when it is needed"),
    _metric(_TRAINING, "trainer_busy", "1 while the trainer has a job"),
    _metric(_TRAINING, "trainer_restarts_total", "Times that the trainer's process died in a job"),
    _metric(
        _MACHINE,
        "device_info",
        "Always 1: what the trainer computes on; absent before its first job",
        labels={"device": "such as cpu or cuda:0", "name": "of the GPU; empty for a CPU"},
    ),
    _metric(_MACHINE, "gpu_memory_used_bytes", "Memory of the GPU in use, by anybody, while the trainer works", _BYTES),
    _metric(_MACHINE, "gpu_memory_size_bytes", "Memory of the GPU, while the trainer works", _BYTES),
    _metric(
        _MACHINE,
        "gpu_utilisation_ratio",
        "Share of time in which the GPU computed, while the trainer works; absent without NVML",
        _RATIO,
    ),
    _metric(_MACHINE, "disk_free_bytes", "Free space on the disk of a folder", _BYTES, labels=_VOLUME),
    _metric(_MACHINE, "disk_size_bytes", "Size of the disk of a folder", _BYTES, labels=_VOLUME),
    _metric(_MACHINE, "disk_reserve_bytes", "Rounds are declined when data has less (limits.min_free_bytes)", _BYTES),
    _metric(
        _STANDING,
        "certificate_expiry_timestamp_seconds",
        "When the site's certificate expires; the agent renews it at two thirds of its lifetime",
        _MOMENT,
    ),
    _metric(
        _STANDING,
        "membership_listed",
        "1 if the signed list holds the site as it is, 0 if not; absent before a list was seen",
    ),
    _metric(_STANDING, "membership_version", "Version of the newest signed list that was verified; absent before one"),
    _metric(
        _PRIVACY,
        "privacy_epsilon_spent",
        "Epsilon of all releases about the site's patients; absent before a budget was in force",
    ),
    _metric(_PRIVACY, "privacy_epsilon_budget", "Epsilon that may be spent; absent without a budget"),
    _metric(_PRIVACY, "privacy_delta", "Delta of the budget; absent without one"),
    _metric(
        _PRIVACY,
        "privacy_unbounded",
        "1 if patients were used without a guarantee, whatever was spent; absent where no budget was ever kept",
    ),
    _metric(_PRIVACY, "privacy_releases_total", "Releases in the ledger of privacy budgets", labels=_MECHANISM),
    _metric(
        _PRIVACY,
        "privacy_refusals_total",
        "Rounds refused because the privacy budget or policy forbids them",
        labels=_MECHANISM,
    ),
    _metric(_PRIVACY, "privacy_ledger_entries", "Entries of the ledger of privacy budgets"),
    _metric(_PRIVACY, "approvals_waiting", "What waits for a person's approval (`fedmepd-agent policy show`)"),
)
