"""The fake network with secure aggregation: the coordinator's board and opening, the sites' sealed files, real pads.

What a site makes durable is on a real disk, by its own code; a kill comes between what it does. Each step of the
protocol is checked here as the services do. Vectors are small, but sums are opened and compared with the clear ones.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coordinator import events as ev
from coordinator.board import Board, content_of
from coordinator.policy import Policy
from coordinator.secure_round import (
    advertisement_of,
    answer_of,
    bundle_of,
    keys_of,
    setting_for,
    terms_of,
    transcript_of,
)
from coordinator.state import AWAITED, Publication, RunState, Step, dump_run
from protos.terms import (
    Advertised,
    ArtefactRef,
    Confirmed,
    Declined,
    Instruction,
    Mask,
    Masked,
    Phase,
    Prepared,
    Report,
    ReportBody,
    RoundId,
    Shared,
    Submitted,
    Train,
    Unmasked,
)
from security.errors import SecurityError
from security.masking import Masker
from security.secagg import KeySet, check_advertisement, check_answer, check_bundle, check_confirmation, recover
from site_agent import session
from site_agent.broadcast import names_of
from site_agent.errors import RefusalError
from site_agent.reports import Ledger
from site_agent.secagg.knowledge import Knowledge
from site_agent.session import Facts, Result, artefacts_of, inputs_key
from tests.federation.fake_network import SiteDisk, Steps, World, content_ref
from tests.site_agent.secure_cohort import MODALITIES, NOW, Cohort, sum_of

OWN = dict.fromkeys("abcd", MODALITIES)
SECURE = Policy(quorum=3, grace_s=10, absent_s=60, first_deadline_s=400, least_deadline_s=400, stall_s=400, step_s=400)
_STEPS: dict[type[ReportBody], tuple[Phase, Step]] = {
    Advertised: (Phase.ADVERTISE, Step.ADVERTISED),
    Shared: (Phase.SHARE, Step.SHARED),
    Confirmed: (Phase.CONSISTENCY, Step.CONFIRMED),
    Unmasked: (Phase.UNMASK, Step.UNMASKED),
}
_ANSWERS = (Prepared, *_STEPS, Masked, Submitted)


class SecureWorld(World):
    """A secure run.

    Args:
        folder: Where the sites' disks are.
        sites: Names from `OWN`.
        rounds: Of the run.
        policy: How long to wait for whom.
    """

    piece = 128

    def __init__(self, folder: Path, sites: str = "abcd", rounds: int = 2, policy: Policy = SECURE) -> None:
        super().__init__("ab", rounds, policy)
        self.cohort = Cohort(folder, own={site: OWN[site] for site in sites}, run="run", least_open={})
        spec = json.dumps(self.cohort.spec.to_dict()).encode()
        self.cohort.spec_sha256 = content_ref(spec).sha256
        state = RunState(
            run="run", spec=content_ref(spec), sites=dict(self.cohort.spec.sites), rounds=rounds, policy=policy
        )
        self._live, self.disk.state, self.disk.blobs = state, dump_run(state), {content_ref(spec): spec}
        self.sites = {site: SiteDisk() for site in sites}
        coordinator = next(iter(self.parties))
        self.parties = {coordinator: self.parties[coordinator]}
        self.parties |= {site: self._party(site) for site in sites}
        self.kept: dict[RoundId, dict[Step, dict[str, bytes]]] = {}
        self.said: dict[tuple[str, RoundId, str], set[bytes]] = {}
        self.opened: dict[RoundId, tuple[str, ...]] = {}
        self._board = Board()

    # -- what must be so --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check that nobody said two things in one context, and that no update was spent twice."""
        for (site, round_id, kind), contents in self.said.items():
            assert len(contents) == 1, f"site {site} said {len(contents)} things as {kind} in round {round_id}"
        for site in self.cohort.sites.values():
            spent = [mark.round.round_number for mark in site.steps.spent.marks()]
            assert len(spent) == len(set(spent)), f"site {site.name} spent an update of a round twice"
        for ended in self.ended.values():
            record = ended.record
            if record.sum is not None:
                assert self.opened[record.id] == record.contributing == record.survivors

    def kill(self, name: str) -> None:
        """Kill a party; what a site's own code made durable stays."""
        super().kill(name)
        if name in self.cohort.sites:
            self.cohort.sites[name].restart()

    # -- the coordinator --------------------------------------------------------------------------------------------

    @property
    def board(self) -> Board:
        """What sites have said in this attempt, from what is durable."""
        current = self.state.round
        if current is not None and self._board.round != current.id:
            self._board = Board(current.id, self.kept.get(current.id))
        return self._board

    def _coordinator(self) -> Steps:
        self._board = Board()
        yield from super()._coordinator()

    def _commit(self, effect: ev.Effect) -> None:
        if isinstance(effect, ev.Keep):
            self.kept.setdefault(effect.round, {}).setdefault(effect.step, {})[effect.site] = effect.content
            self._board = Board()
        if isinstance(effect, ev.RoundEnded):
            self.kept.pop(effect.record.id, None)

    def _event(self, site: str, report: Report) -> ev.Event | None:
        round_id, body = report.round, report.body
        if isinstance(body, _ANSWERS):
            self.said.setdefault((site, round_id, type(body).__name__), set()).add(content_of(round_id, body))
        match body:
            case Prepared(seconds=seconds):
                return ev.SiteTrained(site=site, round=round_id, manifest=None, seconds=seconds)
            case Masked(manifest=manifest):
                return ev.SiteMasked(site=site, round=round_id, manifest=manifest)
            case Advertised() | Shared() | Confirmed() | Unmasked():
                return self._step(site, round_id, body) if self._holds(site, round_id, body) else None
            case _:
                return super()._event(site, report)

    def _step(self, site: str, round_id: RoundId, body: ReportBody) -> ev.Event:
        content = content_of(round_id, body)
        match body:
            case Advertised(minimum=minimum, colluders=colluders):
                return ev.SiteAdvertised(
                    site=site, round=round_id, minimum=minimum, colluders=colluders, content=content
                )
            case Shared():
                return ev.SiteShared(site=site, round=round_id, content=content)
            case Confirmed():
                return ev.SiteConfirmed(site=site, round=round_id, content=content)
        return ev.SiteUnmasked(site=site, round=round_id, content=content)

    def _holds(self, site: str, round_id: RoundId, body: ReportBody) -> bool:
        """Whether a message is right by the rules of its step; one that comes too late is not looked at."""
        current = self.state.round
        known = None if current is None else current.participant(site)
        phase = _STEPS[type(body)][0]
        if current is None or current.id != round_id or current.phase is not phase or known is None:
            return True
        if known.status not in AWAITED[phase]:
            return True
        try:
            match body:
                case Advertised():
                    check_advertisement(setting_for(self.state, self.cohort.spec), advertisement_of(site, body))
                case Shared():
                    check_bundle(self._keys(), bundle_of(site, body))
                case Confirmed(signature=signature):
                    check_confirmation(self._keys(), current.shared, current.survivors, site, signature)
                case Unmasked():
                    check_answer(self._keys(), current.shared, current.survivors, answer_of(site, body))
        except SecurityError as error:
            raise AssertionError(f"honest site {site} sent what is refused: {error}") from error
        return True

    def _keys(self) -> KeySet:
        current = self.state.round
        assert current is not None
        return keys_of(setting_for(self.state, self.cohort.spec), current, self.board)

    def _perform(self, effect: ev.Effect, work: deque[ev.Effect]) -> Steps:
        if not isinstance(effect, ev.Settle):
            yield from super()._perform(effect, work)
            return
        yield
        counts = {segment.name: 0 for segment in self.cohort.layout.segments}
        if self.state.round is not None and self.state.round.id == effect.round:
            terms = terms_of(self.state, self.cohort.spec, self.cohort.layout, self.cohort.listed, counts, NOW)
            yield from self._tell(ev.Settled(round=effect.round, terms=terms), work)

    def _sum(self, effect: ev.SumInputs) -> ev.Event:
        """Open the sum and compare it with that of the clear contributions."""
        current = self.state.round
        if current is None or current.id != effect.round:
            return ev.SumFailed(round=effect.round, reason="the round is over")
        try:
            opening = recover(transcript_of(self._keys(), current, self.board))
        except SecurityError as error:
            return ev.SumFailed(round=effect.round, reason=error.problem)
        content = b""
        for name, sites in opening.contributors.items():
            vectors = {site: self._input(effect.round, site) for site in sites}
            total = sum_of(self.cohort, name, vectors)
            Masker(opening.pads[name]).apply(total)
            clear = {site: self.cohort.vector(site, effect.round.round_number) for site in sites}
            assert np.array_equal(total, sum_of(self.cohort, name, clear)), f"{name} of round {effect.round} is wrong"
            content += total.tobytes()
        self.opened[effect.round] = tuple(opening.contributors["common"])
        counts = {name: len(sites) for name, sites in opening.contributors.items()}
        return ev.Summed(
            round=effect.round,
            sum=content_ref(content),
            contributors=counts,
            sites=effect.sites,
            closed=dict(opening.closed),
        )

    def _input(self, round_id: RoundId, site: str) -> Any:
        return np.frombuffer(self.disk.blobs[self.disk.inputs[round_id, site]], "<u4")

    def _published(self, number: int, key: str) -> Publication:
        def ref(name: str) -> ArtefactRef:
            return ArtefactRef(sha256=hashlib.sha256(f"{name} {key}".encode()).hexdigest(), size=8)

        return replace(
            super()._published(number, key), segments={one.name: ref(one.name) for one in self.cohort.layout.segments}
        )

    # -- a site -----------------------------------------------------------------------------------------------------

    def _facts(
        self, site: str, disk: SiteDisk, ledger: Ledger, memory: dict[str, Any], instruction: Instruction
    ) -> Facts:
        facts = super()._facts(site, disk, ledger, memory, instruction)
        round_id, steps = instruction.round, self.cohort.sites[site].steps
        if round_id is None or ledger.pending is not None:
            return facts
        steps.destroy(lambda other: other != round_id or facts.made.out or facts.made.unmasked)
        plain = None if instruction.run_spec in facts.missing else False
        listed = self.cohort.listed.version
        return replace(facts, plain=plain, listed=listed, masked=steps.masked(round_id))

    def _act(self, site: str, disk: SiteDisk, ledger: Ledger, memory: dict[str, Any], action: session.Action) -> Steps:
        steps = self.cohort.sites[site].steps
        match action:
            case session.Answer(task=task):
                body = yield from self._refusing(memory, lambda: steps.answer(task, self._known(site, disk, action)))
                if body is None:
                    return True
                ledger.prepare(action.round, body)
                yield
                return (yield from self._send(site, ledger, memory))
            case session.MaskInput(task=Mask() as task):
                yield from self._refusing(memory, lambda: steps.mask(task, self._known(site, disk, action)))
                return True
        return (yield from super()._act(site, disk, ledger, memory, action))

    def _refusing(self, memory: dict[str, Any], call: Callable[[], Any]) -> Steps:
        """Do what may be refused, with a kill possible before and after."""
        yield
        try:
            found = call()
        except RefusalError as error:
            memory["refusal"] = Declined(cause=error.cause, problem=error.problem)
            found = None
        yield
        return found

    def _known(self, site: str, disk: SiteDisk, action: session.Answer | session.MaskInput) -> Knowledge:
        result = disk.results[action.round.round_number]
        return self.cohort.knowledge(site, action.round, result=result)

    def _content(self, site: str, disk: SiteDisk, action: session.Upload) -> bytes:  # noqa: ARG002  as in plain runs
        assert action.masked, "nothing leaves a site in clear"
        return self.cohort.sites[site].steps.keeper.masked(action.round).read_bytes()

    def _train(self, site: str, disk: SiteDisk, action: session.DoTrain) -> Steps:
        """Train; the contribution is durable before the note of it, and the same for the same round."""
        assert all(ref in disk.here for ref in artefacts_of(_asked(action)))
        yield
        base = self.cohort.knowledge(site, action.round).result
        yield
        key = inputs_key(action.round, action.spec, action.task)
        disk.results[action.round.round_number] = Result(
            key=key,
            manifest=base.manifest,
            seconds=1.0,
            inputs=names_of(action.task),
            least_open=base.least_open,
            samples=action.task.samples,
        )


def _asked(action: session.DoTrain) -> Instruction:
    task: Train = action.task
    return Instruction(revision=1, round=action.round, run_spec=action.spec, seconds_left=0.0, task=task)
