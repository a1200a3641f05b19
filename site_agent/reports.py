"""The site's numbered reports on disk: written before they are sent, repeated byte by byte until answered (PROTOCOL 5).

One small JSON file, replaced as a whole at each step, so a crash at any point leaves either the step before or the step
after. Does not send anything.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedmepd.durable import write_text
from protos import codec
from protos.errors import ProtocolError
from protos.terms import (
    Accepted,
    Advertised,
    ArtefactRef,
    Confirmed,
    Declined,
    Finished,
    LedgerHead,
    Masked,
    Prepared,
    Report,
    ReportBody,
    ReportReply,
    RoundId,
    Shared,
    Submitted,
    Trained,
    Unmasked,
)
from protos.v1 import federation_pb2 as messages
from site_agent.errors import StateError
from site_agent.faults import disk
from site_agent.session import Made

_FLAGS: dict[type[ReportBody], str] = {
    Accepted: "accepted",
    Prepared: "prepared",
    Advertised: "advertised",
    Shared: "shared",
    Submitted: "submitted",
    Confirmed: "confirmed",
    Unmasked: "unmasked",
}
_VECTORS = ("trained", "masked")


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What the file holds.

    Attributes:
        last: Number of the last report that was answered.
        pending: Serialised request of the next one, if it was perhaps sent.
        round: The round that `made` is about.
        made: What was reported of it.
        finished: The run whose end was reported last.
    """

    last: int = 0
    pending: bytes | None = None
    round: RoundId | None = None
    made: Made = field(default_factory=Made)
    finished: str | None = None


class Ledger:
    """The reports of one site.

    Args:
        path: The file; made with the first report.

    Raises:
        StateError: If it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = _read(path)

    @property
    def last(self) -> int:
        """Number of the last report that was answered."""
        return self._state.last

    @property
    def pending(self) -> bytes | None:
        """The serialised request that waits for its answer."""
        return self._state.pending

    @property
    def finished(self) -> str | None:
        """The run whose end was reported last."""
        return self._state.finished

    def made(self, round_id: RoundId | None) -> Made:
        """Return what was reported of a round."""
        if round_id is None:
            return Made()
        made = self._state.made if self._state.round == round_id else Made()
        return replace(made, finished=self._state.finished == round_id.run)

    def prepare(self, round_id: RoundId, body: ReportBody, heads: tuple[LedgerHead, ...] = ()) -> bytes:
        """Put the next report on disk and return its request, which is sent as it is.

        Args:
            round_id: Which round it is about.
            body: What is stated.
            heads: Of ledgers of privacy budgets (PROTOCOL 5.15).

        Raises:
            StorageError: If it cannot be written; nothing was reported then.
        """
        if self._state.pending is None:
            report = Report(sequence=self._state.last + 1, round=round_id, body=body, heads=heads)
            pending = codec.encode_report(report).SerializeToString(deterministic=True)
            self._write(replace(self._state, pending=pending))
            return pending
        return self._state.pending

    def answered(self, reply: ReportReply) -> Report:
        """Note the answer to the pending report and return that report.

        Raises:
            StateError: If no report is pending.
            StorageError: If it cannot be written; the report is repeated then.
        """
        report = self._pending_report()
        state = self._state
        made = state.made if state.round == report.round else Made()
        self._write(
            replace(
                state,
                last=report.sequence,
                pending=None,
                round=report.round,
                made=_after(made, report.body, in_round=reply.in_round),
                finished=report.round.run if isinstance(report.body, Finished) else state.finished,
            )
        )
        return report

    def refused(self) -> Report:
        """Forget the pending report: refused with an error, it has no number (PROTOCOL 5.2); return it."""
        report = self._pending_report()
        self._write(replace(self._state, pending=None))
        return report

    def leave(self, round_id: RoundId) -> None:
        """Note that the site is out of a round without having been able to say so."""
        made = self._state.made if self._state.round == round_id else Made()
        self._write(replace(self._state, round=round_id, made=replace(made, out=True)))

    def reconcile(self, last_report: int, *, answered: int) -> str | None:
        """Compare our number with the coordinator's (PROTOCOL 5.3) and go on with the coordinator's.

        Args:
            last_report: What an instruction said.
            answered: Our `last` when that instruction was asked for; answers may lag behind.

        Returns:
            What the operator must know, if the two differ without an innocent reason.
        """
        state = self._state
        number = None if state.pending is None else state.last + 1
        if last_report > state.last and last_report != number:
            self._write(replace(state, last=last_report, pending=None))
            return (
                f"the coordinator has seen {last_report} reports of this site and this disk knows of {state.last}: "
                "was it restored, or does another agent use this identity?"
            )
        if last_report < answered:
            self._write(replace(state, last=last_report, pending=None, round=None, made=Made(), finished=None))
            return (
                f"the coordinator has seen {last_report} reports of this site, which has sent {answered}: "
                "the coordinator's database was set back"
            )
        return None

    def _pending_report(self) -> Report:
        if self._state.pending is None:
            raise StateError("no report is pending")
        return codec.decode_report(messages.ReportRequest.FromString(self._state.pending))

    def _write(self, state: _State) -> None:
        with disk(self._path):
            write_text(self._path, json.dumps(_dumped(state), indent=1))
        self._state = state


def _after(made: Made, body: ReportBody, *, in_round: bool) -> Made:
    """Return what is known of a round once a report of it was answered."""
    if isinstance(body, Finished):
        return made
    if not in_round or isinstance(body, Declined):
        return replace(made, out=True)
    match body:
        case Trained(manifest=manifest):
            return replace(made, trained=manifest.vector)
        case Masked(manifest=manifest):
            return replace(made, masked=manifest.vector)
        case _:
            setting: dict[str, Any] = {_FLAGS[type(body)]: True}
            return replace(made, **setting)


def _dumped(state: _State) -> dict[str, Any]:
    pending, where, made = state.pending, state.round, state.made
    return {
        "format": 1,
        "last": state.last,
        "pending": None if pending is None else base64.b64encode(pending).decode(),
        "round": where and [where.run, where.round_number, where.attempt],
        "made": {
            **{name: getattr(made, name) for name in (*_FLAGS.values(), "out")},
            **{name: (ref := getattr(made, name)) and [ref.sha256, ref.size] for name in _VECTORS},
        },
        "finished": state.finished,
    }


def _read(path: Path) -> _State:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return _State()
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error.strerror})", remedy="check its permissions") from error
    try:
        return _loaded(json.loads(text))
    except (ValueError, KeyError, TypeError, ProtocolError) as error:
        raise StateError(
            f"{path} is damaged", remedy="move it away: the agent takes up the coordinator's numbers"
        ) from error


def _loaded(data: dict[str, Any]) -> _State:
    made, where, pending = data["made"], data["round"], data["pending"]
    flags: dict[str, Any] = {name: bool(made.get(name, False)) for name in (*_FLAGS.values(), "out")}
    vectors: dict[str, Any] = {
        name: ArtefactRef(sha256=ref[0], size=ref[1]) for name in _VECTORS if (ref := made.get(name)) is not None
    }
    return _State(
        last=int(data["last"]),
        pending=None if pending is None else base64.b64decode(pending, validate=True),
        round=None if where is None else RoundId(run=where[0], round_number=where[1], attempt=where[2]),
        made=Made(**flags, **vectors),
        finished=data["finished"],
    )
