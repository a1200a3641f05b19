"""What the status page says, made of what is known. Pure: same knowledge, same page; no input or output.

Every text is a plain string, so that `pages` can escape it; bars are shares from 0 to 100.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.records import MemberRow, MemberState, RoundRow, RunRow
from coordinator.standing import ownership, word
from coordinator.state import CohortScores, RunState
from coordinator.status_page.known import Known, RunKnown, Window
from coordinator.status_page.rounds import Attempt, RoundNow, attempt_of, round_now
from coordinator.status_page.words import Moment, moment
from security.identity import Role

_RUNNING_REFRESH_S, _IDLE_REFRESH_S = 10, 60
_SOON_S, _URGENT_S = 14 * 86_400.0, 3 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """The head of a run."""

    run: str
    name: str
    method: str
    aggregation: str
    state: str
    tone: str
    reason: str
    rounds_done: int
    rounds: int
    percent: float
    failed: int
    failures: int
    sites: int
    began: Moment | None
    ended: Moment | None
    current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFacts:
    """A site of the consortium."""

    site: str
    modalities: str
    state: str
    tone: str
    in_run: bool
    software: str
    certificate: Moment | None
    certificate_tone: str
    last_seen: Moment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityFacts:
    """Who owns a modality in a run."""

    modality: str
    owners: int
    active: int
    contributed: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortFacts:
    """How many sites a sum must have and has had."""

    minimum: int
    list_version: int
    members: int
    last: tuple[str, ...]
    missing: tuple[str, ...]
    suspended: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetFacts:
    """The privacy budget of the lead's patients."""

    spent: float
    epsilon: float | None
    delta: float | None
    percent: float
    unbounded: bool
    releases: tuple[tuple[str, int, int], ...]
    stopped: str
    refused: Moment | None
    refusal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """Dice of a region, 0 to 1."""

    region: str
    cohort: float | None
    lead: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFacts:
    """How well the model does, over the cohort and at the lead."""

    rows: tuple[ScoreRow, ...]
    scored: int
    loss: float | None
    lead_loss: float | None
    round_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """A line of the list of runs."""

    run: str
    method: str
    state: str
    tone: str
    began: Moment | None
    ended: Moment | None
    shown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The whole page; parts are None where there is nothing to say."""

    title: str
    consortium: str
    software: str
    read: Moment | None
    refresh_s: int
    run: RunFacts | None
    now: RoundNow | None
    sites: tuple[SiteFacts, ...]
    modalities: tuple[ModalityFacts, ...]
    cohort: CohortFacts | None
    budget: BudgetFacts | None
    scores: ScoreFacts | None
    attempts: tuple[Attempt, ...]
    window: Window | None
    runs: tuple[PastRun, ...]


def page_of(known: Known) -> Page:
    """Return what the page says."""
    run = known.run
    facts = None if run is None else _run(run, known.now)
    going_on = run is not None and run.current and not run.state.status.terminal
    return Page(
        title=f"{known.consortium}: no run" if facts is None else f"{facts.state}: run {facts.run}",
        consortium=known.consortium,
        software=known.software,
        read=moment(known.now, known.now),
        refresh_s=_RUNNING_REFRESH_S if going_on else _IDLE_REFRESH_S,
        run=facts,
        now=None if run is None else round_now(run, known.now),
        sites=tuple(_site(row, known) for row in known.members if row.role == Role.SITE.value),
        modalities=() if run is None else _modalities(run.state),
        cohort=None if run is None else _cohort(known, run.state),
        budget=_budget(known),
        scores=None if run is None else _scores(run.state),
        attempts=() if run is None else _attempts(run, known.now),
        window=None if run is None else run.window,
        runs=tuple(_past(row, known) for row in known.runs),
    )


def _run(run: RunKnown, now: float) -> RunFacts:
    state = run.state
    done = 0 if state.published is None else state.published.round_number
    stands, tone = _standing(state.status.value, paused=state.paused)
    return RunFacts(
        run=state.run,
        name=run.row.name,
        method=run.row.method,
        aggregation=state.policy.aggregation,
        state=stands,
        tone=tone,
        reason=state.reason,
        rounds_done=done,
        rounds=state.rounds,
        percent=100.0 * done / max(1, state.rounds),
        failed=state.failed,
        failures=state.failures,
        sites=len(state.sites),
        began=moment(run.row.created, now),
        ended=moment(run.row.ended, now),
        current=run.current,
    )


def _standing(status: str, *, paused: bool = False) -> tuple[str, str]:
    """Return a run's state as a word, and its tone."""
    tones = {"starting": "busy", "running": "busy", "completed": "good", "failed": "bad"}
    tones |= {"paused": "warn", "aborted": "warn"}
    found = word(status, paused=paused)
    return found, tones.get(found, "quiet")


def _site(row: MemberRow, known: Known) -> SiteFacts:
    listed = row.member_id in known.admitted
    if row.state is MemberState.REVOKED:
        state, tone = "revoked", "bad"
    else:
        state, tone = ("member", "good") if listed else ("not on the signed list", "warn")
    seen = known.run.seen.get(row.member_id, (None, 0.0))[1] if known.run is not None else 0.0
    left = row.certificate_expires - known.now
    return SiteFacts(
        site=row.member_id,
        modalities=", ".join(row.modalities),
        state=state,
        tone=tone,
        in_run=known.run is not None and row.member_id in known.run.state.sites,
        software=row.software,
        certificate=moment(row.certificate_expires, known.now),
        certificate_tone="bad" if left < _URGENT_S else "warn" if left < _SOON_S else "quiet",
        last_seen=moment(max(seen, row.last_seen), known.now),
    )


def _modalities(state: RunState) -> tuple[ModalityFacts, ...]:
    return tuple(
        ModalityFacts(
            modality=found.modality,
            owners=len(found.owners),
            active=len(found.active or ()),
            contributed=len(found.contributed or ()),
            names=found.owners,
        )
        for found in ownership(state)
    )


def _cohort(known: Known, state: RunState) -> CohortFacts:
    return CohortFacts(
        minimum=known.minimum_cohort,
        list_version=known.list_version,
        members=len(known.admitted),
        last=state.previous,
        missing=tuple(site for site in state.sites if site not in state.previous) if state.previous else (),
        suspended=tuple(sorted(state.suspended.items())),
    )


def _budget(known: Known) -> BudgetFacts | None:
    found = known.spending
    if found is None or not found.used:
        return None
    budget = found.budget
    return BudgetFacts(
        spent=found.spent,
        epsilon=None if budget is None else budget.epsilon,
        delta=None if budget is None else budget.delta,
        percent=0.0 if budget is None else min(100.0, 100.0 * found.spent / budget.epsilon),
        unbounded=found.unbounded,
        releases=tuple((name, found.releases.get(name, 0), count) for name, count in sorted(found.debits.items())),
        stopped=known.stopped,
        refused=None if known.refusal is None else moment(known.refusal.at, known.now),
        refusal="" if known.refusal is None else known.refusal.details.get("reason", ""),
    )


def _scores(state: RunState) -> ScoreFacts | None:
    if state.published is None:
        return None
    found: CohortScores = state.published.scores
    regions = tuple(dict.fromkeys((*found.dice, *found.lead_dice)))
    if not regions:
        return None
    return ScoreFacts(
        rows=tuple(
            ScoreRow(region=region, cohort=found.dice.get(region), lead=found.lead_dice.get(region))
            for region in regions
        ),
        scored=found.scored,
        loss=found.loss,
        lead_loss=found.lead_loss,
        round_number=state.published.round_number,
    )


def _attempts(run: RunKnown, now: float) -> tuple[Attempt, ...]:
    models = {model.round_number: model for model in run.models}
    newest: dict[int, RoundRow] = {row.round.round_number: row for row in run.attempts}
    return tuple(
        attempt_of(row, models.get(row.round.round_number) if newest[row.round.round_number] is row else None, now)
        for row in reversed(run.attempts)
    )


def _past(row: RunRow, known: Known) -> PastRun:
    shown = known.run is not None and known.run.row.run == row.run
    stands, tone = _standing(row.status, paused=shown and known.run is not None and known.run.state.paused)
    return PastRun(
        run=row.run,
        method=row.method,
        state=stands,
        tone=tone,
        began=moment(row.created, known.now),
        ended=moment(row.ended, known.now),
        shown=shown,
    )
