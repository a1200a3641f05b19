"""Both sessions on a network made of lists: every step of every party is a point where it may be killed.

Parties are generators. What they keep in local variables is their memory; what they put into `Disk` is durable at that
very statement. A kill throws the generator away and closes its calls; the next one begins from what the disk holds, in
its stored form. Time, order, loss and repetition are the scheduler's. Nothing here does input or output: the site's
ledger is the real one, on a file that is a string.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from coordinator import events as ev
from coordinator.board import Board
from coordinator.garbage import garbage_of
from coordinator.instructions import instruction_for
from coordinator.policy import Policy
from coordinator.session import handle, pending
from coordinator.state import Publication, RunState, RunStatus, SiteStatus, dump_run, load_run
from protos import codec
from protos.terms import (
    Accepted,
    ArtefactRef,
    Declined,
    Finished,
    Instruction,
    Mask,
    Phase,
    Report,
    ReportReply,
    RoundId,
    SegmentSlice,
    Submit,
    Submitted,
    Train,
    Trained,
    VectorManifest,
    Wait,
)
from protos.v1 import federation_pb2 as messages
from site_agent import reports, session
from site_agent.reports import Ledger
from site_agent.session import Facts, Result, artefacts_of, decide, inputs_key

COORDINATOR = "coordinator"
OWN = {"a": ("flair",), "b": ("flair", "t1"), "c": ("t1",)}
POLICY = Policy(
    aggregation="plain", quorum=2, grace_s=10, absent_s=30, first_deadline_s=100, least_deadline_s=60, stall_s=50
)
_PATIENCE = 40
_AWAY = 3
_PIECE = 4
Steps = Generator[None, None, Any]


def content_ref(content: bytes) -> ArtefactRef:
    return ArtefactRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


class TextFile:
    """A file that is a string; replaced as a whole."""

    def __init__(self) -> None:
        self.text: str | None = None

    def read_text(self) -> str:
        if self.text is None:
            raise FileNotFoundError
        return self.text


def _write_text(file: TextFile, text: str) -> None:
    file.text = text


@contextmanager
def ledgers_in_memory() -> Iterator[None]:
    """Let ledgers keep their file in a string."""
    with patch.object(reports, "write_text", _write_text):
        yield


@dataclass
class CoordinatorDisk:
    """Database, blobs and the lead's folder."""

    state: str
    answered: dict[str, tuple[int, bytes, ReportReply]] = field(default_factory=dict)
    inputs: dict[tuple[RoundId, str], ArtefactRef] = field(default_factory=dict)
    spool: dict[tuple[str, ArtefactRef], bytes] = field(default_factory=dict)
    blobs: dict[ArtefactRef, bytes] = field(default_factory=dict)
    lead: dict[str, Publication] = field(default_factory=dict)


@dataclass
class SiteDisk:
    """What an agent keeps."""

    ledger: TextFile = field(default_factory=TextFile)
    here: dict[ArtefactRef, bytes] = field(default_factory=dict)
    contributions: dict[int, bytes] = field(default_factory=dict)
    results: dict[int, Result] = field(default_factory=dict)
    kept: bool = False


@dataclass
class Message:
    """A request or a reply on its way."""

    to: str
    sender: str
    call: int
    body: tuple[str, Any]


@dataclass
class Party:
    """A process: its steps, what has reached it, how often it was killed."""

    make: Callable[[], Steps]
    steps: Steps | None = None
    inbox: deque[Message] = field(default_factory=deque)
    taken: int = 0
    away: int = 0
    gone: bool = False
    over: bool = False


class World:
    """A coordinator, sites, and the network between them.

    Args:
        sites: Names from `OWN`.
        rounds: Of the run.
        policy: How long to wait for whom.

    Attributes:
        piece: Bytes of an upload in one message.
    """

    piece = _PIECE

    def __init__(self, sites: str = "ab", rounds: int = 2, policy: Policy = POLICY) -> None:
        own = {site: OWN[site] for site in sites}
        spec = b'{"run": "spec"}'
        state = RunState(run="run", spec=content_ref(spec), sites=own, rounds=rounds, policy=policy)
        self.now, self.calls, self.failures = 1000.0, 0, 0
        self._live = state
        self.disk = CoordinatorDisk(state=dump_run(state), blobs={content_ref(spec): spec})
        self.sites = {site: SiteDisk() for site in sites}
        self.network: list[Message] = []
        self.announced: dict[tuple[str, int], set[ArtefactRef]] = {}
        self.totals: dict[ArtefactRef, tuple[tuple[str, ...], int]] = {}
        self.ended: dict[RoundId, ev.RoundEnded] = {}
        self.parties = {COORDINATOR: Party(make=self._coordinator)}
        self.parties |= {site: self._party(site) for site in sites}

    def _party(self, site: str) -> Party:
        return Party(make=lambda: self._site(site))

    # -- what happens -----------------------------------------------------------------------------------------------

    @property
    def state(self) -> RunState:
        """The run as it was committed last."""
        return self._live

    @property
    def board(self) -> Board:
        """What sites have said in the steps of this attempt: nothing in a plain run."""
        return Board()

    def advance(self, name: str) -> None:
        """Let a party take one step; one that was killed starts."""
        party = self.parties[name]
        if party.gone or party.over:
            return
        if party.steps is None:
            party.steps = party.make()
        try:
            next(party.steps)
            party.taken += 1
        except StopIteration:
            party.over = True

    def kill(self, name: str) -> None:
        """Kill a party: its memory and its connections are gone."""
        party = self.parties[name]
        if party.steps is not None:
            party.steps.close()
        party.steps, party.away = None, _AWAY
        party.inbox.clear()
        self.network = [message for message in self.network if name not in (message.to, message.sender)]

    def deliver(self, index: int) -> None:
        """Let a message arrive, in any order."""
        if self.network:
            message = self.network.pop(index % len(self.network))
            party = self.parties[message.to]
            if party.steps is not None:
                party.inbox.append(message)

    def drop(self, index: int) -> None:
        """Lose a message."""
        if self.network:
            self.network.pop(index % len(self.network))

    def duplicate(self, index: int) -> None:
        """Let a message come twice, the second time whenever the scheduler likes."""
        if self.network:
            self.network.append(self.network[index % len(self.network)])

    def cycle(self, seconds: float = 0.5) -> None:
        """Let everybody take a step, in a network that does what it should."""
        self.now += seconds
        while self.network:
            self.deliver(0)
        for name, party in self.parties.items():
            party.away = max(0, party.away - 1)
            if not party.away:
                self.advance(name)

    def settle(self, most: int = 5_000) -> RunState:
        """Go on without faults until the run is over for everybody who is still there."""
        for _ in range(most):
            if self.state.status.terminal and all(self._left(site) for site in self.sites):
                return self.state
            self.cycle(2.0)
        raise AssertionError(f"the run does not end: {self.state}")

    def _left(self, site: str) -> bool:
        return self.parties[site].gone or self.parties[site].over

    # -- what must be so --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check that sums hold what they say, once, and that no site said two things."""
        for (site, number), vectors in self.announced.items():
            assert len(vectors) == 1, f"site {site} announced {len(vectors)} vectors for round {number}"
        for ended in self.ended.values():
            record = ended.record
            if record.sum is not None:
                added, total = self.totals[record.sum]
                assert added == record.contributing
                assert total == sum(self._announced(site, record.id.round_number) for site in added)
                assert sorted({*added, *record.missing}) == sorted(self.sites)

    def _announced(self, site: str, number: int) -> int:
        (vector,) = self.announced[site, number]
        return int(vector.sha256, 16)

    # -- the coordinator --------------------------------------------------------------------------------------------

    def _coordinator(self) -> Steps:
        inbox = self.parties[COORDINATOR].inbox
        state = self._live = load_run(self.disk.state)
        seen = dict.fromkeys(state.sites, self.now)
        work = deque(pending(state))
        opened = ticked = self.now
        while True:
            for _ in range(len(inbox)):
                message = inbox.popleft()
                seen[message.sender] = self.now
                yield from self._serve(message, work)
            if work:
                yield from self._perform(work.popleft(), work)
            if self.now - ticked >= 1 and not self.state.status.terminal:
                ticked = self.now
                yield from self._tell(ev.Tick(seen=dict(seen), progress={}, since=opened), work)
            yield

    def _tell(self, event: ev.Event, work: deque[ev.Effect], site: str = "", numbered: Any = None) -> Steps:
        """Decide, make durable, then act: with a kill possible before and after the commit."""
        outcome = handle(self.state, event, self.now)
        yield
        for effect in outcome.effects:
            if isinstance(effect, ev.RoundEnded):
                assert effect.record.phase in (Phase.DONE, Phase.FAILED)
                self.ended[effect.record.id] = effect
                self.disk.inputs = {k: v for k, v in self.disk.inputs.items() if k[0] != effect.record.id}
            self._commit(effect)
        if outcome.state is not self._live:
            self._live, self.disk.state = outcome.state, dump_run(outcome.state)
        reply = ReportReply(sequence=0, in_round=outcome.answer.in_round, message=outcome.answer.message)
        if numbered is not None:
            reply = ReportReply(sequence=numbered[0], in_round=reply.in_round, message=reply.message)
            self.disk.answered[site] = (*numbered, reply)
        yield
        work.extend(outcome.effects)
        return reply

    def _commit(self, effect: ev.Effect) -> None:
        """Make durable, with the state, what else is to be."""

    def _serve(self, message: Message, work: deque[ev.Effect]) -> Steps:
        kind, argument = message.body
        site = message.sender
        answer: Any = "refused"
        if kind == "next":
            last = self.disk.answered[site][0] if site in self.disk.answered else 0
            answer = (instruction_for(self.state, self.board, site, self.now), last)
        elif kind == "report":
            answer = yield from self._report(site, argument, work)
        elif kind == "offset":
            answer = yield from self._offset(site, argument)
        elif kind == "upload":
            answer = yield from self._upload(site, *argument)
        elif kind == "download" and argument in _named(instruction_for(self.state, self.board, site, self.now)):
            answer = self.disk.blobs[argument]
        self.network.append(Message(to=site, sender=COORDINATOR, call=message.call, body=(kind, answer)))

    def _report(self, site: str, request: bytes, work: deque[ev.Effect]) -> Steps:
        """Take a numbered report (PROTOCOL 5.1)."""
        report = codec.decode_report(messages.ReportRequest.FromString(request))
        last, body, reply = self.disk.answered.get(site, (0, b"", None))
        if report.sequence == last and request == body:
            return reply
        if report.sequence != last + 1:
            return "refused"
        event = self._event(site, report)
        if event is None:
            return "refused"
        return (yield from self._tell(event, work, site, (report.sequence, request)))

    def _event(self, site: str, report: Report) -> ev.Event | None:  # noqa: PLR0911  one per report
        """Return the event that a report is; None if it is refused."""
        match report.body:
            case Accepted():
                return ev.SiteAccepted(site=site, round=report.round)
            case Trained(manifest=manifest, seconds=seconds):
                self.announced.setdefault((site, report.round.round_number), set()).add(manifest.vector)
                return ev.SiteTrained(site=site, round=report.round, manifest=manifest, seconds=seconds)
            case Submitted(vector=vector):
                current = self.state.round
                here = current is not None and current.id == report.round
                if here and self.disk.inputs.get((report.round, site)) != vector:
                    return None
                return ev.SiteSubmitted(site=site, round=report.round, vector=vector)
            case Declined(problem=problem):
                return ev.SiteDeclined(site=site, round=report.round, reason=problem)
            case Finished():
                return ev.SiteFinished(site=site, run=report.round.run)
            case _:
                return None

    def _wanted(self, site: str, ref: ArtefactRef) -> bool:
        current = self.state.round
        known = None if current is None else current.participant(site)
        task = instruction_for(self.state, self.board, site, self.now).task
        announced = known is not None and known.manifest is not None and known.manifest.vector == ref
        return announced and not known.status.out and isinstance(task, Submit | Mask | Wait)

    def _whole(self, site: str, ref: ArtefactRef) -> bool:
        current = self.state.round
        return current is not None and self.disk.inputs.get((current.id, site)) == ref

    def _offset(self, site: str, ref: ArtefactRef) -> Steps:
        """Say how much is durable; what is all there and was not kept is kept now."""
        if not self._wanted(site, ref):
            return "refused"
        there = self.disk.spool.get((site, ref), b"")
        if self._whole(site, ref):
            return ref.size
        return len(there) if len(there) < ref.size else (yield from self._keep(site, ref, there))

    def _upload(self, site: str, ref: ArtefactRef, offset: int, piece: bytes) -> Steps:
        """Keep a piece; the last one makes a blob, then an input: two durable steps."""
        if not self._wanted(site, ref):
            return "refused"
        if self._whole(site, ref):
            return ref.size
        there = self.disk.spool.get((site, ref), b"")
        if len(there) != offset:
            return "refused"
        there = self.disk.spool[site, ref] = there + piece
        yield
        return len(there) if len(there) < ref.size else (yield from self._keep(site, ref, there))

    def _keep(self, site: str, ref: ArtefactRef, content: bytes) -> Steps:
        """Make a blob, then an input: two durable steps."""
        assert content_ref(content) == ref
        self.disk.blobs[ref] = content
        del self.disk.spool[site, ref]
        yield
        if self.state.round is not None:
            self.disk.inputs[self.state.round.id, site] = ref
        yield
        return ref.size

    def _perform(self, effect: ev.Effect, work: deque[ev.Effect]) -> Steps:
        yield
        match effect:
            case ev.SumInputs():
                yield from self._tell(self._sum(effect), work)
            case ev.TrainLead():
                yield  # in the middle of its training
                yield from self._tell(self._lead(effect), work)
            case ev.PublishLead():
                made = next(p for p in self.disk.lead.values() if p.round_number == effect.round_number)
                for ref in made.artefacts:
                    self.disk.blobs[ref] = ref.sha256.encode()[: ref.size]
                    yield
                yield from self._tell(ev.Published(publication=made), work)
            case ev.RoundEnded():
                for ref in garbage_of(effect, self.state, frozenset()):
                    self.disk.blobs.pop(ref, None)
                    yield

    def _sum(self, effect: ev.SumInputs) -> ev.Event:
        refs = [self.disk.inputs.get((effect.round, site)) for site in effect.sites]
        lost = [site for site, ref in zip(effect.sites, refs, strict=True) if ref not in self.disk.blobs]
        if lost:
            current = self.state.round
            assert current is None or current.id != effect.round or current.phase is not Phase.AGGREGATING, lost
            return ev.SumRefused(round=effect.round, site=lost[0], reason="its upload is gone")
        total = sum(int(content_ref(self.disk.blobs[ref]).sha256, 16) for ref in refs if ref is not None)
        ref = content_ref(str(total).encode())
        self.totals[ref] = (effect.sites, total)
        return ev.Summed(round=effect.round, sum=ref, contributors={"common": len(refs)}, sites=effect.sites)

    def _lead(self, effect: ev.TrainLead) -> ev.Event:
        """Do the lead's part: what was committed is not trained again, and depends on the sum alone."""
        if self.failures:
            self.failures -= 1
            return ev.LeadFailed(round_number=effect.round_number, reason="as the scheduler wanted")
        key = json.dumps([effect.round_number, effect.sum and effect.sum.sha256, effect.sites])
        known = {k: p for k, p in self.disk.lead.items() if p.round_number != effect.round_number}
        self.disk.lead = {**known, key: self._published(effect.round_number, key)}
        return ev.LeadTrained(round_number=effect.round_number)

    def _published(self, number: int, key: str) -> Publication:
        return _publication(number, key)

    # -- a site -----------------------------------------------------------------------------------------------------

    def _site(self, site: str) -> Steps:
        disk, ledger = self.sites[site], Ledger(self.sites[site].ledger)  # type: ignore[arg-type]
        memory: dict[str, Any] = {}
        while ledger.finished is None:
            answered = ledger.last
            found = yield from self._call(site, "next", None)
            if found is None:
                continue
            instruction, last = found
            problem = ledger.reconcile(last, answered=answered)
            assert problem is None, problem
            if instruction.round != memory.get("round"):
                memory = {"round": instruction.round}
            while True:
                action = decide(instruction, self._facts(site, disk, ledger, memory, instruction))
                if isinstance(action, session.Nothing) or not (
                    yield from self._act(site, disk, ledger, memory, action)
                ):
                    break
            yield

    def _facts(
        self, site: str, disk: SiteDisk, ledger: Ledger, memory: dict[str, Any], instruction: Instruction
    ) -> Facts:
        """Return what is so at a site; in a secure run more than this (`fake_secure_network`)."""
        del site
        if instruction.round is None or ledger.pending is not None:
            return Facts(pending=ledger.pending is not None)
        result = disk.results.get(instruction.round.round_number)
        if isinstance(instruction.task, Train):
            key = inputs_key(instruction.round, instruction.run_spec, instruction.task)
            result = result if result is not None and result.key == key else None
        missing = tuple(ref for ref in artefacts_of(instruction) if ref not in disk.here)
        return Facts(
            missing=missing,
            standing=memory.get("standing"),
            refusal=memory.get("refusal"),
            plain=None if instruction.run_spec in missing else True,
            result=result,
            made=ledger.made(instruction.round),
            uploaded=memory.get("uploaded", False),
            kept=disk.kept,
        )

    def _act(self, site: str, disk: SiteDisk, ledger: Ledger, memory: dict[str, Any], action: session.Action) -> Steps:
        """Do something; False if the coordinator is to be asked first."""
        yield
        match action:
            case session.CheckMembership():
                memory["standing"] = True
            case session.Download(ref=ref):
                content = yield from self._call(site, "download", ref)
                if content is None or content == "refused":
                    return False
                disk.here[ref] = content
            case session.DoTrain():
                yield from self._train(site, disk, action)
            case session.Tell() | session.Resend():
                if isinstance(action, session.Tell):
                    ledger.prepare(action.round, action.body)
                    yield
                return (yield from self._send(site, ledger, memory))
            case session.Upload(ref=ref):
                return (yield from self._put(site, ref, self._content(site, disk, action), memory))
            case session.FinishRun():
                yield
                disk.kept = True
        yield
        return True

    def _content(self, site: str, disk: SiteDisk, action: session.Upload) -> bytes:
        """Return what a site uploads."""
        del site
        return disk.contributions[action.round.round_number]

    def _train(self, site: str, disk: SiteDisk, action: session.DoTrain) -> Steps:
        """Train in steps; the contribution is durable before the note of it."""
        key, number = inputs_key(action.round, action.spec, action.task), action.round.round_number
        assert all(ref in disk.here for ref in action.task.artefacts)
        yield
        content = f"{site} {number} {key}".encode()
        content = hashlib.sha256(content).digest()[: 2 * _PIECE]
        disk.contributions[number] = content
        yield
        manifest = VectorManifest(segments=(SegmentSlice(name="common", values=2),), vector=content_ref(content))
        disk.results[number] = Result(key=key, manifest=manifest, seconds=1.0)

    def _send(self, site: str, ledger: Ledger, memory: dict[str, Any]) -> Steps:
        reply = yield from self._call(site, "report", ledger.pending)
        if reply is None:
            return False
        if reply == "refused":
            memory["uploaded"] = False
            ledger.refused()
            return False
        ledger.answered(reply)
        yield
        return True

    def _put(self, site: str, ref: ArtefactRef, content: bytes, memory: dict[str, Any]) -> Steps:
        offset = yield from self._call(site, "offset", ref)
        while isinstance(offset, int) and offset < ref.size:
            piece = content[offset : offset + self.piece]
            offset = yield from self._call(site, "upload", (ref, offset, piece))
        memory["uploaded"] = offset == ref.size
        return memory["uploaded"]

    def _call(self, site: str, kind: str, argument: Any) -> Steps:
        """Send a request and wait for its reply; None if there is none."""
        self.calls += 1
        call, inbox = self.calls, self.parties[site].inbox
        self.network.append(Message(to=COORDINATOR, sender=site, call=call, body=(kind, argument)))
        for _ in range(_PATIENCE):
            yield
            while inbox:
                message = inbox.popleft()
                if message.call == call:
                    return message.body[1]
        return None


def _named(instruction: Instruction) -> set[ArtefactRef]:
    refs = set(artefacts_of(instruction))
    return refs | ({instruction.run_spec} if instruction.run_spec is not None else set())


def _publication(number: int, key: str) -> Publication:
    def ref(name: str) -> ArtefactRef:
        return ArtefactRef(sha256=hashlib.sha256(f"{name} {key}".encode()).hexdigest(), size=8)

    return Publication(
        round_number=number,
        segments={name: ref(name) for name in ("modality/flair", "modality/t1", "common")},
        anchors=ref("anchors"),
        start=ArtefactRef(sha256=hashlib.sha256(b"start").hexdigest(), size=8),
        layout=ArtefactRef(sha256=hashlib.sha256(b"layout").hexdigest(), size=8),
        model=ref("model"),
        samples=0.0,
    )


def completed(state: RunState) -> bool:
    """Whether a run completed with everybody in its last round."""
    return state.status is RunStatus.COMPLETED and state.round is not None and not _missing(state)


def _missing(state: RunState) -> bool:
    return state.round is None or len(state.round.sites(SiteStatus.CONTRIBUTED)) < len(state.sites)
