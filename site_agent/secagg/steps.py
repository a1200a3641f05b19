"""A site's answers in secure aggregation: checked, made durable, then given, and given again byte by byte (SPEC 11.4).

Each step reads the sealed state, lets `security.secagg` decide, keeps the new state and the public record, and returns
the report. A step that was done gives the same report; asked for another one, it declines. Nothing is sent from here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from protos.terms import (
    Advertise,
    Advertised,
    Confirm,
    Confirmed,
    DeclineCause,
    KeyShare,
    Mask,
    ReportBody,
    RoundId,
    SealedShare,
    SeedShare,
    Share,
    Shared,
    Unmask,
    Unmasked,
    VectorManifest,
)
from security import secagg
from security.errors import EquivocationError, SecureAggregationError, SmallCohortError, SpentError
from security.secagg import Advertisement, Answer, Bundle, Demands, SiteState
from site_agent.errors import RefusalError
from site_agent.ports import Notes
from site_agent.round_checks import check_round, setting_again
from site_agent.secagg.keeper import Keeper
from site_agent.secagg.knowledge import Knowledge
from site_agent.secagg.masking import write_masked
from site_agent.secagg.records import Records, RoundRecord, check_recorded, record_of
from site_agent.secagg.spent import Spent
from site_agent.session import AnswerTask
from site_agent.updates import CheckedUpdate

_CLAUSES = {
    Advertise: "SPEC 10.1",
    Share: "SPEC 10.3",
    Mask: "SPEC 10.5",
    Confirm: "SPEC 10.8",
    Unmask: "SPEC 10.9",
}
_OWN_CLAUSES = {SmallCohortError: "SPEC 10.10", EquivocationError: "SPEC 11.4", SpentError: "SPEC 11.5"}
_T = TypeVar("_T")
_SHOWN = 16  # digits of a hash, for people


@dataclass(slots=True)
class Steps:
    """Answers tasks, one at a time.

    Attributes:
        keeper: Sealed states.
        records: Public records.
        spent: Updates that were sent.
        notes: The audit log.
    """

    keeper: Keeper
    records: Records
    spent: Spent
    notes: Notes
    _one: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def at(cls, data: Path, notes: Notes) -> Steps:
        """Return the steps of an agent's folder."""
        return cls(keeper=Keeper(data), records=Records(data), spent=Spent(data), notes=notes)

    def answer(self, task: AnswerTask, known: Knowledge) -> ReportBody:
        """Answer a task, durably.

        Raises:
            RefusalError: If it must not be answered.
            StorageError: If the answer cannot be made durable.
        """
        with self._one, _refusing(_CLAUSES[type(task)]):
            match task:
                case Advertise():
                    return _advertised(self._advertise(task, known).advertisement)
                case Share():
                    ads = _believable(task)
                    state = self._go_on(known, "shared", lambda s: secagg.share(s, ads))
                    return _shared(_there(state.bundle))
                case Confirm(survivors=survivors):
                    key = known.identity_key
                    state = self._go_on(known, "confirmed", lambda s: secagg.confirm(s, survivors, key))
                    return Confirmed(signature=state.confirmation)
                case Unmask():
                    signatures = {one.site: one.signature for one in task.signatures}
                    state = self._go_on(known, "unmasked", lambda s: secagg.unmask(s, signatures))
                    return _unmasked(_there(state.answer))

    def mask(self, task: Mask, known: Knowledge) -> VectorManifest:
        """Mask the contribution, and mark it as spent before anybody hears of it (SPEC 11.5).

        Raises:
            RefusalError: If it must not be masked.
            StorageError: If something cannot be made durable.
        """
        with self._one, _refusing(_CLAUSES[Mask]):
            sealed = {one.site: one.sealed for one in task.shares}
            state = self._go_on(known, "masked", lambda s: secagg.receive(s, task.sharers, sealed))
            clear = known.result.manifest.vector.sha256
            self.spent.check(known.round, clear)
            segments = known.layout.for_member(known.own)
            update = CheckedUpdate(known.contribution, segments, known.spec.formats, most_norm=known.most_norm)
            target = self.keeper.masked(known.round)
            manifest = write_masked(target, update, segments, secagg.pads(state), sha256=clear)
            self.spent.mark(known.round, clear)
            self.records.write(known.round, record_of(state).with_masked(manifest))
            return manifest

    def check_repeated(self, task: AnswerTask | Mask, known: Knowledge) -> None:
        """Check that what was answered is not asked for differently; changes nothing.

        Raises:
            RefusalError: If it is.
        """
        state, record = self.keeper.read(known.round), self.records.read(known.round)
        with _refusing(_CLAUSES[type(task)]):
            if state is None:
                if record is not None:
                    check_recorded(record, task)
                return
            match task:
                case Advertise():
                    secagg.check_same_setting(state, setting_again(task, known, state.setting))
                case Share() if state.keys is not None:
                    secagg.share(state, _believable(task))
                case Mask() if state.sharers:
                    secagg.receive(state, task.sharers, {})
                case Confirm() if state.survivors:
                    secagg.confirm(state, task.survivors, known.identity_key)
                case _:
                    pass

    def masked(self, round_id: RoundId) -> VectorManifest | None:
        """Return the masked vector of an attempt if it lies ready."""
        record = self.records.read(round_id)
        manifest = None if record is None else record.manifest
        if manifest is None:
            return None
        try:
            whole = self.keeper.masked(round_id).stat().st_size == manifest.vector.size
        except OSError:
            return None
        return manifest if whole else None

    def destroy(self, over: Callable[[RoundId], bool]) -> None:
        """Destroy what is kept of attempts that are over (SPEC 11.6).

        Raises:
            StorageError: If the disk refuses.
        """
        with self._one:
            for round_id in tuple(self.keeper.attempts()):
                if over(round_id):
                    self.keeper.destroy(round_id)
                    self.notes.note("secagg.destroyed", str(round_id), "accepted")

    # -- steps ------------------------------------------------------------------------------------------------------

    def _advertise(self, task: Advertise, known: Knowledge) -> SiteState:
        state = self.keeper.read(known.round)
        if state is not None:
            secagg.check_same_setting(state, setting_again(task, known, state.setting))
        elif self.records.read(known.round) is not None:
            raise _lost()
        else:
            found = check_round(task, known, self.records, self.spent)
            state = secagg.advertise(found, known.site, known.identity_key, known.demands(found.roster))
            self.keeper.write(known.round, state)
        self._record(known.round, state, "advertised")
        return state

    def _go_on(self, known: Knowledge, step: str, decide: Callable[[SiteState], SiteState]) -> SiteState:
        """Take a step once: the state is durable before anything is made of it."""
        before = self.keeper.read(known.round)
        if before is None:
            raise _lost()
        state = decide(before)
        if state is not before:
            self.keeper.write(known.round, state)
        self._record(known.round, state, step)
        return state

    def _record(self, round_id: RoundId, state: SiteState, step: str) -> None:
        """Tell the audit log what is new, then keep the public record: a crash between the two tells it twice."""
        before, record = self.records.read(round_id), record_of(state)
        if before is not None and before.manifest is not None:
            record = record.with_masked(before.manifest)
        if record != before or step == "unmasked":
            self.notes.note(f"secagg.{step}", str(round_id), "accepted", **_shown(record))
        if record != before:
            self.records.write(round_id, record)


def _shown(record: RoundRecord) -> dict[str, str]:
    """Return what of a record the audit log tells."""
    shown = {"ctx0": record.context[:_SHOWN], "roster": str(len(record.roster))}
    if record.advertised:
        shown |= {"ctx1": record.keys_context[:_SHOWN], "U1": str(len(record.advertised))}
    if record.sharers:
        shown["U2"] = str(len(record.sharers))
    if record.survivors:
        shown["U3"] = str(len(record.survivors))
    if record.unopened:
        shown["unopened"] = ", ".join(record.unopened)
    return shown


@contextmanager
def _refusing(clause: str) -> Iterator[None]:
    """Turn a violation into a refusal that names its clause."""
    try:
        yield
    except SecureAggregationError as error:
        own = _OWN_CLAUSES.get(type(error), clause)
        raise RefusalError(error.problem, cause=DeclineCause.POLICY, clause=own, remedy=error.remedy) from error


def _lost() -> RefusalError:
    return RefusalError(
        "this site does not hold the keys of this attempt any more", cause=DeclineCause.STORAGE, clause="SPEC 11.4"
    )


def _there(found: _T | None) -> _T:
    if found is None:
        raise _lost()
    return found


def _believable(task: Share) -> tuple[Advertisement, ...]:
    return tuple(
        Advertisement(
            site=one.site,
            channel_key=one.channel_key,
            mask_key=one.mask_key,
            demands=Demands(minimum=one.minimum, colluders=one.colluders),
            signature=one.signature,
        )
        for one in task.keys
    )


def _advertised(said: Advertisement) -> Advertised:
    return Advertised(
        channel_key=said.channel_key,
        mask_key=said.mask_key,
        minimum=said.demands.minimum,
        colluders=said.demands.colluders,
        signature=said.signature,
    )


def _shared(said: Bundle) -> Shared:
    shares = tuple(SealedShare(site=site, sealed=said.sealed[site]) for site in sorted(said.sealed))
    return Shared(commitments=said.commitments, shares=shares)


def _unmasked(said: Answer) -> Unmasked:
    return Unmasked(
        seeds=tuple(
            SeedShare(site=site, segment=segment, share=share)
            for site in sorted(said.seeds)
            for segment, share in said.seeds[site].items()
        ),
        keys=tuple(KeyShare(site=site, share=said.keys[site]) for site in sorted(said.keys)),
    )
