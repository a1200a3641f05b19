"""Rounds, what a site is doing in them, and the question for its instruction (PROTOCOL 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass

from protos.codec.checks import MAX_COUNT, MAX_ROUND, integer, name, present, quantity, refuse
from protos.terms import Activity, ActivityKind, RoundId
from protos.v1 import federation_pb2 as federation

MAX_WAIT_S = 60.0
_ACTIVITIES = frozenset(int(kind) for kind in ActivityKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextQuery:
    """A site's question for its instruction; also its heartbeat.

    Attributes:
        known_revision: Of the instruction that it acts on; 0 for none.
        wait_s: How long the answer may wait for another one, 0 to 60.
        activity: What the site is doing, if it says so.
    """

    known_revision: int
    wait_s: float
    activity: Activity | None


def encode_round(round_id: RoundId) -> federation.RoundId:
    """Return the message that names a round."""
    return federation.RoundId(run=round_id.run, round=round_id.round_number, attempt=round_id.attempt)


def decode_round(message: federation.RoundId, where: str = "RoundId") -> RoundId:
    """Return the round that a message names.

    Raises:
        MalformedMessageError: Naming the field.
    """
    return RoundId(
        run=name(message.run, f"{where}.run"),
        round_number=integer(message.round, f"{where}.round", most=MAX_ROUND),
        attempt=integer(message.attempt, f"{where}.attempt", least=1, most=MAX_ROUND),
    )


def encode_activity(activity: Activity) -> federation.Activity:
    """Return the message that says what a site is doing."""
    return federation.Activity(
        round=None if activity.round is None else encode_round(activity.round),
        kind=federation.Activity.Kind.ValueType(activity.kind),
        done=activity.done,
        total=activity.total,
    )


def decode_activity(message: federation.Activity, where: str = "Activity") -> Activity:
    """Return what a site is doing.

    Raises:
        MalformedMessageError: Naming the field.
    """
    if message.kind not in _ACTIVITIES:
        refuse(f"{where}.kind", f"{int(message.kind)} is unknown")
    return Activity(
        kind=ActivityKind(message.kind),
        round=decode_round(message.round, f"{where}.round") if message.HasField("round") else None,
        done=integer(message.done, f"{where}.done"),
        total=integer(message.total, f"{where}.total"),
    )


def encode_next_request(query: NextQuery) -> federation.NextRequest:
    """Return the message that asks for a site's instruction."""
    activity = None if query.activity is None else encode_activity(query.activity)
    return federation.NextRequest(known_revision=query.known_revision, wait_s=query.wait_s, activity=activity)


def decode_next_request(message: federation.NextRequest) -> NextQuery:
    """Return a site's question.

    Raises:
        MalformedMessageError: Naming the field.
    """
    has_activity = message.HasField("activity")
    return NextQuery(
        known_revision=integer(message.known_revision, "NextRequest.known_revision", most=MAX_COUNT),
        wait_s=quantity(message.wait_s, "NextRequest.wait_s", most=MAX_WAIT_S),
        activity=decode_activity(message.activity, "NextRequest.activity") if has_activity else None,
    )


def decode_round_of(message: federation.ReportRequest | federation.Instruction) -> RoundId:
    """Return the round that a message must name.

    Raises:
        MalformedMessageError: If it names none, or a field is wrong.
    """
    what = message.DESCRIPTOR.name
    present(message, "round", what)
    return decode_round(message.round, f"{what}.round")
