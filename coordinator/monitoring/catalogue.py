"""Every metric of the coordinator: what `/metrics` exposes, and `ops/METRICS.md` says.

What is not known is absent, never 0. Counters begin with 0 when the service starts. Labels are bounded: sites, regions,
modalities and words listed here; nothing of patients, and of a site nothing that the coordinator does not hold anyway.
"""

from __future__ import annotations

from coordinator.state import FailureCause, RunStatus, SiteStatus
from protos.metrics import Kind, Metric
from protos.terms import DeclineCause, Phase

PREFIX = "fedmepd_coordinator_"
CHECKS = ("database", "blobs", "certificate", "disk", "trainer", "loop")
RUN_STATES = ("none", RunStatus.STARTING.value, "running", "paused", "completed", "aborted", "failed")
PHASES = tuple(phase.name.lower() for phase in Phase)
LASTING = tuple(phase.name.lower() for phase in Phase if not phase.terminal)
STATUSES = tuple(status.value for status in SiteStatus)
DROPPED = tuple(status.value for status in SiteStatus if status.out)
OUTCOMES = ("done", "failed")
FAILURES = tuple(cause.value for cause in FailureCause)
DECLINES = tuple(cause.value for cause in DeclineCause)
REFUSED = ("not_finite", "range", "shape", "hash", "malformed", "stale", "replay", "other")
STAGES = ("owners", "active", "contributed")
MECHANISMS = ("anchors", "training")
CONNECTED_S, STALLED_S = 90.0, 60.0
_BUCKETS = (0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
_SITE, _REGION, _MECHANISM = {"site": "the site's id"}, {"region": "a region"}, {"mechanism": MECHANISMS}
_VOLUME = {"volume": ("data", "blobs", "database")}
_MOMENT, _S, _BYTES, _RATIO = "seconds since 1970", "seconds", "bytes", "ratio, 0 to 1"
_SERVICE, _RUN, _SITES, _COHORT = "The coordinator", "Run and round", "Sites", "Cohort and membership"
_QUALITY, _STORAGE, _TRAINER, _PRIVACY = "How well the model does", "Storage", "The lead's trainer", "Privacy"


def _metric(group: str, name: str, about: str, unit: str = "", **more: object) -> Metric:
    kind = more.pop("kind", Kind.COUNTER if name.endswith("_total") else Kind.GAUGE)
    return Metric(name=PREFIX + name, help=about, unit=unit, group=group, kind=kind, **more)  # type: ignore[arg-type]


_OF_SERVICE = (
    _metric(
        _SERVICE,
        "build_info",
        "Always 1: release and protocol of the coordinator",
        labels={"version": "a release", "protocol": "a number"},
    ),
    _metric(_SERVICE, "ready", "1 if every check holds, as /readyz says"),
    _metric(_SERVICE, "check", "1 if the check holds", labels={"check": CHECKS}),
    _metric(
        _SERVICE,
        "rpcs_total",
        "Calls that were answered, by method and gRPC status; of a stream, when it ended",
        labels={"method": "Service/Method, one that needs a role or none", "code": "a gRPC status code"},
    ),
    _metric(
        _SERVICE,
        "certificate_expiry_timestamp_seconds",
        "When the certificate expires",
        _MOMENT,
        labels={"certificate": ("coordinator", "issuer", "root")},
    ),
    _metric(_SERVICE, "audit_records_total", "Records in the audit log, over all time"),
)
_OF_RUNS = (
    _metric(
        _RUN,
        "run_info",
        "Always 1: the latest run; absent before the first",
        labels={"run": "the run's id", "method": "its method", "aggregation": ("secure", "plain")},
    ),
    _metric(_RUN, "run_state", "1 for the state of the latest run, 0 for the others", labels={"state": RUN_STATES}),
    _metric(_RUN, "run_rounds", "Rounds that the latest run is to have"),
    _metric(_RUN, "round_number", "The current or last round; absent before the first"),
    _metric(_RUN, "round_attempt", "Which attempt at the round this is, from 1"),
    _metric(_RUN, "round_phase", "1 for the phase of the current round, 0 for the others", labels={"phase": PHASES}),
    _metric(_RUN, "phase_began_timestamp_seconds", "When the current phase began", _MOMENT),
    _metric(_RUN, "round_began_timestamp_seconds", "When the current attempt at the round began", _MOMENT),
    _metric(_RUN, "run_consecutive_failures", "Rounds of the latest run that failed in a row, up to now"),
    _metric(_RUN, "rounds_total", "Attempts at rounds that ended, by outcome", labels={"outcome": OUTCOMES}),
    _metric(
        _RUN,
        "round_failures_total",
        "Attempts at rounds that failed, by cause: quorum (too few sites), deadline (too few, and some were late), "
        "cohort (a sum that sites would not help to open), input (inputs that could not be added up), trainer "
        "(the lead's), privacy (its budget), storage, aborted (by an operator), other",
        labels={"cause": FAILURES},
    ),
    _metric(
        _RUN,
        "phase_duration_seconds",
        "How long phases lasted; told when the attempt at the round has ended",
        _S,
        kind=Kind.HISTOGRAM,
        labels={"phase": LASTING},
        buckets=_BUCKETS,
    ),
    _metric(
        _RUN,
        "phase_last_seconds",
        "How long the phase lasted the last time; absent until it has been, since the service started",
        _S,
        labels={"phase": LASTING},
    ),
)
_OF_COHORT = (
    _metric(_COHORT, "participants", "Sites by where they stand in the current round", labels={"status": STATUSES}),
    _metric(
        _COHORT,
        "modality_participants",
        "Sites that own a modality: in the run and not revoked (owners), not out of the current round (active), in the "
        "last sum that was applied (contributed; absent before the first)",
        labels={"modality": "a modality of the run", "stage": STAGES},
    ),
    _metric(_COHORT, "cohort_last", "Sites in the last sum that was applied; absent before the first"),
    _metric(_COHORT, "cohort_minimum", "Fewest sites in a sum, by the signed list; absent without one"),
    _metric(
        _COHORT,
        "members",
        "Sites that are enrolled, on the signed list and valid now, or revoked; newcomers of any "
        "role that await approval",
        labels={"state": ("enrolled", "listed", "awaiting", "revoked")},
    ),
    _metric(_COHORT, "membership_version", "Version of the signed list in force; absent without one"),
    _metric(_COHORT, "membership_revoked_listed", "Revoked sites that the signed list still names"),
    _metric(
        _COHORT, "revocations_read_timestamp_seconds", "When revocations were last read from the database", _MOMENT
    ),
)
_OF_SITES = (
    _metric(
        _SITES,
        "site_connected",
        f"1 if the enrolled site was heard within {CONNECTED_S:.0f} s; absent for revoked sites",
        labels=_SITE,
    ),
    _metric(_SITES, "site_last_seen_timestamp_seconds", "When the site was last heard", _MOMENT, labels=_SITE),
    _metric(
        _SITES,
        "site_status",
        "Always 1: where the site stands in the current round",
        labels={**_SITE, "status": STATUSES},
    ),
    _metric(
        _SITES,
        "site_training_seconds",
        "How long the site says that it trained in the current round; rounded by sites that train privately",
        _S,
        labels=_SITE,
    ),
    _metric(
        _SITES,
        "site_upload_seconds",
        "From the first byte of the site's last whole upload to its last",
        _S,
        labels=_SITE,
    ),
    _metric(
        _SITES,
        "site_certificate_expiry_timestamp_seconds",
        "When the newest certificate of an enrolled site expires",
        _MOMENT,
        labels=_SITE,
    ),
    _metric(_SITES, "received_bytes_total", "Contents of uploads that came, with repetitions", _BYTES, labels=_SITE),
    _metric(_SITES, "sent_bytes_total", "Contents of artefacts that were sent, with repetitions", _BYTES, labels=_SITE),
    _metric(
        _SITES,
        "dropouts_total",
        "Sites that were out of an attempt at a round when it ended, by why",
        labels={"status": DROPPED},
    ),
    _metric(_SITES, "declines_total", "Reports of sites that decline a round, by cause", labels={"cause": DECLINES}),
    _metric(
        _SITES,
        "updates_refused_total",
        "Reports and uploads of sites that were refused: not_finite (a number that is none), range (values outside of "
        "their range), shape (not what the layout wants), hash (not the bytes that were announced), malformed (not by "
        "the protocol), stale (not asked for now), replay (out of order), other",
        labels={"cause": REFUSED},
    ),
    _metric(_SITES, "uploads_open", "Uploads of the current round that have begun and are not whole"),
    _metric(_SITES, "uploads_stalled", f"Those of them that have not grown for {STALLED_S:.0f} s"),
)
_OF_QUALITY = (
    _metric(
        _QUALITY,
        "cohort_dice",
        "Mean validation Dice over the sites that brought one to the last opened sum; absent while unknown and "
        "where sites train privately",
        _RATIO,
        labels=_REGION,
    ),
    _metric(_QUALITY, "cohort_scored", "Sites that brought one; absent before the first publication"),
    _metric(_QUALITY, "cohort_loss", "Mean training loss over the cohort; absent where sites train privately"),
    _metric(_QUALITY, "lead_dice", "The lead's last validation Dice; absent where it trains privately", labels=_REGION),
    _metric(_QUALITY, "lead_loss", "The lead's training loss; absent where it trains privately"),
)
_OF_THINGS = (
    _metric(_TRAINER, "trainer_up", "1 while the trainer's process runs; it is started when it is needed"),
    _metric(_TRAINER, "trainer_busy", "1 while the trainer has a job"),
    _metric(_TRAINER, "trainer_restarts_total", "Times that the trainer's process died in a job"),
    _metric(_STORAGE, "disk_free_bytes", "Free space on the disk of a folder", _BYTES, labels=_VOLUME),
    _metric(_STORAGE, "disk_size_bytes", "Size of the disk of a folder", _BYTES, labels=_VOLUME),
    _metric(_STORAGE, "upload_reserve_bytes", "Uploads are refused when data has less (min_free_bytes)", _BYTES),
    _metric(
        _STORAGE, "database_seconds", "How long the last check of the database took; absent if it has not answered", _S
    ),
    _metric(
        _PRIVACY,
        "privacy_epsilon_spent",
        "Epsilon of all releases about the lead's patients; absent before a budget was in force",
    ),
    _metric(_PRIVACY, "privacy_epsilon_budget", "Epsilon that may be spent; absent without a budget"),
    _metric(_PRIVACY, "privacy_delta", "Delta of the budget; absent without one"),
    _metric(_PRIVACY, "privacy_unbounded", "1 if patients were used without a guarantee, whatever was spent"),
    _metric(_PRIVACY, "privacy_releases_total", "Releases in the ledger, over all time", labels=_MECHANISM),
    _metric(
        _PRIVACY,
        "privacy_refusals_total",
        "Releases refused because the privacy budget does not cover them; a run that is refused at its start counts as "
        "training where the lead trains privately, else as anchors",
        labels=_MECHANISM,
    ),
    _metric(_PRIVACY, "privacy_ledger_entries", "Entries of the ledger; absent where there is none"),
)
CATALOGUE: tuple[Metric, ...] = (
    *_OF_SERVICE,
    *_OF_RUNS,
    *_OF_COHORT,
    *_OF_SITES,
    *_OF_QUALITY,
    *_OF_THINGS,
)
