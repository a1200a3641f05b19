"""What operators see: states and rows of the coordinator as messages of the Admin service. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from coordinator.instructions import seconds_left
from coordinator.records import AuditRow, MemberRow, MemberState, ModelRow, RoundRow, RunRow, TokenRow, TokenState
from coordinator.starting import Started
from coordinator.state import Participant, Publication, RoundState, RunState, load_round
from protos.terms import Activity
from protos.v1 import admin_pb2 as messages
from protos.v1 import common_pb2 as common
from security.identity import Role

Seen = Callable[[str], tuple[Activity | None, float]]
_ROLES = {
    Role.COORDINATOR: messages.ROLE_COORDINATOR,
    Role.SITE: messages.ROLE_SITE,
    Role.ADMIN: messages.ROLE_ADMIN,
    Role.OPERATOR: messages.ROLE_OPERATOR,
    Role.AUDITOR: messages.ROLE_AUDITOR,
}
_ROLE_OF = {number: role for role, number in _ROLES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadActivity:
    """What the lead is doing, and how far it is."""

    activity: str = ""
    done: int = 0
    total: int = 0


def role_message(role: Role) -> messages.Role.ValueType:
    """Return a role as the schema names it."""
    return _ROLES[role]


def role_of(number: int) -> Role | None:
    """Return the role that a message names; None if it names none."""
    return _ROLE_OF.get(number)  # type: ignore[call-overload,no-any-return]


def token_view(row: TokenRow, now: float) -> messages.TokenView:
    """Return what is told of a token; never its secret."""
    expired = row.state is TokenState.OPEN and now >= row.expires
    return messages.TokenView(
        token_id=row.token_id,
        role=role_message(Role(row.role)),
        id=row.member_id,
        created=row.created,
        expires=row.expires,
        state="expired" if expired else row.state.value,
        modalities=row.modalities,
    )


def member_view(row: MemberRow, *, listed: bool, activity: Activity | None, seen: float) -> messages.MemberView:
    """Return a member.

    Args:
        row: What is kept of it.
        listed: Whether the signed list in force admits it now.
        activity: What it is doing.
        seen: When it was last heard of since the coordinator started.
    """
    state = "member" if listed and row.state is MemberState.ENROLLED else row.state.value
    return messages.MemberView(
        role=role_message(Role(row.role)),
        id=row.member_id,
        modalities=row.modalities,
        identity_public_key=row.identity_public_key,
        state=state,
        software=row.software,
        enrolled=row.enrolled,
        last_seen=max(seen, row.last_seen),
        certificate_expires=row.certificate_expires,
        serial=row.serial,
        activity=activity_text(activity),
    )


def waiting_view(row: TokenRow) -> messages.MemberView:
    """Return a newcomer that waits for an approval; its serial is not there yet."""
    asked = row.request
    return messages.MemberView(
        role=role_message(Role(row.role)),
        id=row.member_id,
        modalities=() if asked is None else asked.modalities,
        identity_public_key=b"" if asked is None else asked.identity_public_key,
        software="" if asked is None else asked.software,
        state=TokenState.AWAITING.value,
        activity=f"token {row.token_id}",
    )


def activity_text(activity: Activity | None) -> str:
    """Return an activity in words."""
    if activity is None:
        return ""
    words = activity.kind.name.lower()
    return f"{words} {activity.done}/{activity.total}" if activity.total else words


def started_view(started: Started) -> messages.StartRunReply:
    """Return a run that was started, and what its operator must know."""
    return messages.StartRunReply(
        run=started.run,
        aggregation=started.aggregation,
        warnings=started.warnings,
        segments=[
            messages.SegmentOutlook(
                segment=one.segment,
                owners=one.owners,
                minimum=one.minimum,
                threshold=one.threshold,
                tolerated=one.tolerated,
            )
            for one in started.segments
        ],
    )


def run_view(
    row: RunRow, state: RunState, seen: Seen | None, lead: LeadActivity | None, *, now: float
) -> messages.RunView:
    """Return a run.

    Args:
        row: What is kept for queries.
        state: Its state.
        seen: What sites are doing; None for a run of the past.
        lead: What the lead is doing, likewise.
        now: Seconds since the epoch.
    """
    view = messages.RunView(
        run=state.run,
        name=row.name,
        method=row.method,
        state=state.status.value,
        reason=state.reason,
        paused=state.paused,
        rounds=state.rounds,
        created=row.created,
        ended=row.ended or 0.0,
        sites=list(state.sites),
        aggregation=state.policy.aggregation,
    )
    if state.round is not None:
        view.round.CopyFrom(round_view(state.round, None, seen))
        view.round.seconds_left = seconds_left(state, now)
    if state.published is not None:
        view.cohort.CopyFrom(_cohort(state.published))
    if lead is not None:
        view.lead.CopyFrom(messages.LeadView(activity=lead.activity, done=lead.done, total=lead.total))
    return view


def round_view(state: RoundState, row: RoundRow | None, seen: Seen | None) -> messages.RoundView:
    """Return an attempt at a round; `row`, if given, says when it ended."""
    return messages.RoundView(
        run=state.id.run,
        round=state.id.round_number,
        attempt=state.id.attempt,
        phase=int(state.phase),  # type: ignore[arg-type]
        reason=state.reason,
        began=state.began,
        ended=(row.ended or 0.0) if row is not None else 0.0,
        participants=[_participant(p, seen) for p in state.participants],
        durations=_durations(state),
        closed=state.closed,
    )


def round_row_view(row: RoundRow) -> messages.RoundView:
    """Return an attempt at a round as it is kept, which after retention is in outline only."""
    if not row.pruned:
        return round_view(load_round(row.detail), row, None)
    return messages.RoundView(
        run=row.round.run,
        round=row.round.round_number,
        attempt=row.round.attempt,
        phase=int(row.phase),  # type: ignore[arg-type]
        reason=row.reason,
        began=row.began,
        ended=row.ended or 0.0,
        pruned=True,
    )


def model_view(row: ModelRow) -> messages.ModelView:
    """Return a version of the model and whose updates are in it."""
    return messages.ModelView(
        run=row.run,
        round=row.round_number,
        model=common.Artefact(sha256=bytes.fromhex(row.model.sha256), size=row.model.size),
        created=row.created,
        contributors=row.contributors,
        missing=row.missing,
        kept=row.kept,
        promoted=row.promoted or 0.0,
    )


def audit_view(row: AuditRow) -> messages.AuditView:
    """Return an audit record."""
    return messages.AuditView(
        sequence=row.sequence,
        at=row.at,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        outcome=row.outcome,
        details=row.details,
        previous=row.previous,
        hash=row.hash,
    )


def _cohort(published: Publication) -> messages.CohortView:
    scores = published.scores
    return messages.CohortView(
        round=published.round_number, sites=scores.scored, dice=scores.dice, lead_dice=scores.lead_dice
    )


def _participant(participant: Participant, seen: Seen | None) -> messages.ParticipantView:
    activity, last = (None, 0.0) if seen is None else seen(participant.site)
    return messages.ParticipantView(
        site=participant.site,
        state=participant.status.value,
        reason=participant.reason,
        seconds=participant.trained_s,
        done=0 if activity is None else activity.done,
        total=0 if activity is None else activity.total,
        modalities=participant.modalities,
        last_seen=last,
    )


def _durations(state: RoundState) -> Iterable[messages.PhaseDuration]:
    return [
        messages.PhaseDuration(phase=phase, seconds=seconds)  # type: ignore[arg-type]
        for phase, seconds in sorted(state.durations.items())
    ]
