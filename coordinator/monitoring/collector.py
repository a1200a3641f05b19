"""The coordinator's state as metrics, read when somebody asks; events come from `counters`.

Reads immutable state from another thread than the event loop's, and waits for nothing longer than `asking` allows. What
cannot be read is left out, and the rest is told: a scrape never fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog
from prometheus_client.metrics_core import Metric as Family

from coordinator.auth import OPEN, ROLES
from coordinator.budgets import Spending
from coordinator.driver import Driver
from coordinator.monitoring.asking import Asked
from coordinator.monitoring.catalogue import (
    CATALOGUE,
    CHECKS,
    CONNECTED_S,
    DECLINES,
    DROPPED,
    FAILURES,
    MECHANISMS,
    OUTCOMES,
    PHASES,
    PREFIX,
    REFUSED,
    RUN_STATES,
    STAGES,
    STALLED_S,
    STATUSES,
)
from coordinator.monitoring.counters import Counters, durations_of, short
from coordinator.monitoring.health import Health
from coordinator.records import MemberRow, MemberState
from coordinator.registry import Registry
from coordinator.standing import ownership, word
from coordinator.state import AWAITED, RoundState, RunState, SiteStatus
from fedmepd import __version__
from protos.metrics import Book, Labels, Part, PartedCollector, Row, states
from protos.terms import PROTOCOL, Phase
from security.identity import Role

_log = structlog.get_logger("coordinator.monitoring")
BOOK = Book(PREFIX, CATALOGUE)
_UPLOADING = (SiteStatus.READY, *AWAITED[Phase.MASKED])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is read.

    Attributes:
        driver: The latest run.
        counters: Events.
        registry: Members and the signed list.
        spending: What the ledger says; any thread may ask.
        clock: Seconds since the epoch.
    """

    driver: Driver
    counters: Counters
    registry: Registry
    spending: Callable[[], Spending | None]
    clock: Callable[[], float]


class CoordinatorCollector(PartedCollector):
    """Collects.

    Args:
        sources: What is read.
        health: Checks, and what the database says.
    """

    def __init__(self, sources: Sources, health: Health) -> None:
        self._from, self._health = sources, health
        self.ledger: Asked[Spending | None] = Asked(sources.spending)
        super().__init__(BOOK, lambda part, reason: _log.warning("metrics cannot be read", part=part, reason=reason))

    def collect(self) -> Iterator[Family]:
        """Ask what takes its time, and yield every metric but histograms meanwhile."""
        self._health.begin()
        self.ledger.begin()
        yield from super().collect()

    def parts(self) -> Sequence[Part]:
        """Return what there is to read."""
        return (
            self._service,
            self._run,
            self._round,
            self._events,
            self._cohort,
            self._members,
            self._sites,
            self._uploads,
            self._quality,
            self._things,
            self._privacy,
        )

    # -- the service ------------------------------------------------------------------------------------------------

    def _service(self) -> Iterator[Row]:
        checks = self._health.checks()
        calls: dict[Labels, float] = {(short(method), "OK"): 0.0 for method in (*ROLES, *OPEN)}
        yield "build_info", {(__version__, str(PROTOCOL)): 1.0}
        yield "ready", float(all(check.ok for check in checks))
        yield "check", {(name,): float(check.ok) for name, check in zip(CHECKS, checks, strict=True)}
        yield "rpcs_total", calls | dict(self._from.counters.rpcs)
        own, trust = self._health.things.credentials.loaded.facts, self._from.registry.trust
        yield (
            "certificate_expiry_timestamp_seconds",
            {
                ("coordinator",): own.not_after.timestamp(),
                ("issuer",): self._from.registry.issuer_expires.timestamp(),
                ("root",): trust.root.not_valid_after_utc.timestamp(),
            },
        )
        rows = self._health.rows.answer()
        yield "audit_records_total", None if rows.value is None else float(rows.value.audit_records)
        yield "database_seconds", None if rows.error else rows.seconds

    def _things(self) -> Iterator[Row]:
        process, disks = self._health.things.lead.process(), self._health.disks.answer().value or {}
        yield "trainer_up", float(process.up)
        yield "trainer_busy", float(process.busy)
        yield "trainer_restarts_total", float(process.deaths)
        yield "disk_free_bytes", {(name,): float(disk.free) for name, disk in disks.items()}
        yield "disk_size_bytes", {(name,): float(disk.size) for name, disk in disks.items()}
        yield "upload_reserve_bytes", float(self._health.things.reserve)

    def _privacy(self) -> Iterator[Row]:
        refused, found = self._from.counters.spent, self.ledger.answer().value
        yield "privacy_refusals_total", {(name,): float(refused[name]) for name in MECHANISMS}
        releases = {} if found is None else found.releases
        yield "privacy_releases_total", {(name,): float(releases.get(name, 0)) for name in MECHANISMS}
        if found is not None:
            yield "privacy_epsilon_spent", found.spent if found.used else None
            yield "privacy_epsilon_budget", None if found.budget is None else found.budget.epsilon
            yield "privacy_delta", None if found.budget is None else found.budget.delta
            yield "privacy_unbounded", float(found.unbounded)
            yield "privacy_ledger_entries", float(found.entries)

    # -- run and round ----------------------------------------------------------------------------------------------

    def _run(self) -> Iterator[Row]:
        state = self._from.driver.state
        yield "run_state", states(_state_of(state), RUN_STATES)
        if state is not None:
            yield "run_info", {(state.run, self._from.driver.method, state.policy.aggregation): 1.0}
            yield "run_rounds", float(state.rounds)
            yield "run_consecutive_failures", float(state.failures)

    def _round(self) -> Iterator[Row]:
        state, counters = self._from.driver.state, self._from.counters
        current = None if state is None else state.round
        present = {} if current is None else durations_of(current)
        last = dict(counters.last_durations) | present
        yield "phase_last_seconds", {(phase,): seconds for phase, seconds in last.items()}
        if current is not None:
            yield "round_number", float(current.id.round_number)
            yield "round_attempt", float(current.id.attempt)
            yield "round_phase", states(current.phase.name.lower(), PHASES)
            yield "phase_began_timestamp_seconds", current.phase_began
            yield "round_began_timestamp_seconds", current.began

    def _events(self) -> Iterator[Row]:
        counters = self._from.counters
        for name, counted, values in (
            ("rounds_total", counters.rounds, OUTCOMES),
            ("round_failures_total", counters.failures, FAILURES),
            ("dropouts_total", counters.dropouts, DROPPED),
            ("declines_total", counters.declines, DECLINES),
            ("updates_refused_total", counters.refused, REFUSED),
        ):
            yield name, {(value,): float(counted[value]) for value in values}

    # -- cohort and sites -------------------------------------------------------------------------------------------

    def _cohort(self) -> Iterator[Row]:
        state = self._from.driver.state
        if state is None:
            return
        statuses = [] if state.round is None else [known.status.value for known in state.round.participants]
        if state.round is not None:
            yield "participants", {(status,): float(statuses.count(status)) for status in STATUSES}
        yield "modality_participants", dict(_modalities(state))
        yield "cohort_last", float(len(state.previous)) if state.previous else None

    def _members(self) -> Iterator[Row]:
        registry, rows = self._from.registry, self._health.rows.answer().value
        listed = registry.signed_list()
        yield "cohort_minimum", None if listed is None else float(listed.minimum_cohort)
        yield "membership_version", None if listed is None else float(listed.version)
        yield "revocations_read_timestamp_seconds", registry.read_at
        if rows is None:
            return
        sites = [row for row in rows.members if row.role == Role.SITE.value]
        revoked = {row.member_id for row in sites if row.state is MemberState.REVOKED}
        named = set() if listed is None else {member.site for member in listed.members}
        yield (
            "members",
            {
                ("enrolled",): float(len(sites) - len(revoked)),
                ("listed",): float(len(registry.admitted_sites())),
                ("awaiting",): float(rows.awaiting),
                ("revoked",): float(len(revoked)),
            },
        )
        yield "membership_revoked_listed", float(len(revoked & named))

    def _sites(self) -> Iterator[Row]:
        rows, now, counters = self._health.rows.answer().value, self._from.clock(), self._from.counters
        sites = () if rows is None else tuple(row for row in rows.members if row.role == Role.SITE.value)
        enrolled = [row for row in sites if row.state is MemberState.ENROLLED]
        seen = {row.member_id: self._seen(row) for row in enrolled}
        yield "site_connected", {(site,): float(now - at <= CONNECTED_S) for site, at in seen.items()}
        yield "site_last_seen_timestamp_seconds", {(site,): at for site, at in seen.items() if at}
        expiry: dict[Labels, float] = {(row.member_id,): row.certificate_expires for row in enrolled}
        yield "site_certificate_expiry_timestamp_seconds", expiry
        yield "site_upload_seconds", _by_site(counters.upload_seconds)
        nothing: dict[Labels, float] = {(row.member_id,): 0.0 for row in sites}
        yield "received_bytes_total", nothing | _by_site(counters.received)
        yield "sent_bytes_total", nothing | _by_site(counters.sent)
        state = self._from.driver.state
        current = () if state is None or state.round is None else state.round.participants
        yield "site_status", {(known.site, known.status.value): 1.0 for known in current}
        yield "site_training_seconds", {(known.site,): known.trained_s for known in current if known.trained_s}

    def _seen(self, row: MemberRow) -> float:
        return max(row.last_seen, self._from.driver.site_activity(row.member_id)[1])

    def _uploads(self) -> Iterator[Row]:
        state, now = self._from.driver.state, self._from.clock()
        current = None if state is None else state.round
        found = dict(self._from.counters.uploads)
        grew = [upload.grew for site, upload in found.items() if _is_wanted(current, site, upload.ref.sha256)]
        yield "uploads_open", float(len(grew))
        yield "uploads_stalled", float(sum(now - at > STALLED_S for at in grew))

    def _quality(self) -> Iterator[Row]:
        state = self._from.driver.state
        if state is None or state.published is None:
            return
        scores = state.published.scores
        yield "cohort_dice", {(region,): mean for region, mean in scores.dice.items()}
        yield "cohort_scored", float(scores.scored)
        yield "cohort_loss", scores.loss
        yield "lead_dice", {(region,): value for region, value in scores.lead_dice.items()}
        yield "lead_loss", scores.lead_loss


def _state_of(state: RunState | None) -> str:
    return "none" if state is None else word(state.status.value, paused=state.paused)


def _modalities(state: RunState) -> Iterator[tuple[Labels, float]]:
    """Yield how many sites own each modality of the run, in each stage that there is."""
    for found in ownership(state):
        for stage, sites in zip(STAGES, (found.owners, found.active, found.contributed), strict=True):
            if sites is not None:
                yield (found.modality, stage), float(len(sites))


def _by_site(values: Mapping[str, float]) -> dict[Labels, float]:
    return {(site,): float(value) for site, value in dict(values).items()}


def _is_wanted(current: RoundState | None, site: str, sha256: str) -> bool:
    """Whether the round still waits for an upload."""
    known = None if current is None or current.phase is not Phase.MASKED else current.participant(site)
    if known is None or known.manifest is None or known.status not in _UPLOADING:
        return False
    return known.manifest.vector.sha256 == sha256
