"""The loops against a scripted coordinator: what stops work, what is repeated, what declines a round."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmepd.layout_json import layout_digest
from fedmepd.plan import parse_plan
from fedmepd.runspec import make_spec
from protos import codec
from protos.context import round_context
from protos.terms import (
    Accepted,
    ArtefactRef,
    BroadcastSegment,
    DeclineCause,
    Declined,
    Instruction,
    ReportReply,
    RoundId,
    Submit,
    Submitted,
    Train,
    Trained,
    Wait,
)
from protos.v1 import federation_pb2 as messages
from security.identity import Identity, Role
from site_agent.approvals import Approvals
from site_agent.errors import CorruptedError, RejectedError, StaleError, UnauthenticatedError, UnreachableError
from site_agent.gathering import Tools
from site_agent.policy_file import Policy
from site_agent.reports import Ledger
from site_agent.status import StatusFile
from site_agent.training import Training
from site_agent.transfers import Downloads
from tests.federation.hospital import MODALITIES, RUN, small_layout
from tests.site_agent.agent_at_hand import (
    PLAIN,
    IdleTrainer,
    Noted,
    build_agent,
    charges_of,
    config_of,
    no_pause,
    policy_tools,
    until_true,
)
from tests.site_agent.test_transfers import ref_of

LAYOUT = small_layout()
ROUND = RoundId(run="r", round_number=1)
LISTED = SimpleNamespace(version=1, members=(), minimum_cohort=4, digest="d" * 64)
LIMIT_S = 20


def spec_bytes(own=MODALITIES):
    import tomllib

    plan = parse_plan(
        {k: v for k, v in tomllib.loads(RUN.format(rounds=2, federation="")).items() if k == "run"}, source=""
    )
    return json.dumps(
        make_spec(plan, run_id="r", sites={"a": own, "b": MODALITIES}, aggregation="plain").to_dict()
    ).encode()


class Script:
    """A coordinator that says what it is told to say, and remembers what it heard."""

    def __init__(self, own=MODALITIES):
        self.spec = spec_bytes(own)
        self.blobs = {ref_of(self.spec).sha256: self.spec}
        self.instruction = self.wait("nothing")
        self.changed = asyncio.Event()
        self.heard, self.asked, self.fail = [], [], {}
        self.last = 0
        self.uploaded = b""

    def wait(self, reason, round_id=None):
        return self._make(Wait(reason=reason), round_id)

    def train(self, round_id=ROUND, content=b"segment"):
        self.blobs[ref_of(content).sha256] = content
        segments = tuple(
            BroadcastSegment(name=segment.name, artefact=ref_of(content), owners=2) for segment in LAYOUT.segments
        )
        return self._make(Train(segments=segments, anchors=None, start=None, samples=1.0), round_id)

    def submit(self, round_id=ROUND):
        roster = ("a", "b")
        spec, layout = ref_of(self.spec).sha256, layout_digest(LAYOUT)
        context = round_context(round_id, spec=spec, layout=layout, roster=roster)
        return self._make(Submit(roster=roster, context=context), round_id)

    def _make(self, task, round_id):
        revision = abs(hash((task, round_id))) % (1 << 60) + 1
        spec = None if round_id is None else ref_of(self.spec)
        return Instruction(revision=revision, round=round_id, run_spec=spec, seconds_left=0.0, task=task)

    def say(self, instruction):
        self.instruction = instruction
        self.changed.set()
        self.changed = asyncio.Event()

    def bodies(self, kind):
        return [report.body for report in self.heard if isinstance(report.body, kind)]

    def _fail(self, call):
        if self.fail.get(call):
            error = self.fail[call].pop(0)
            if error is not None:
                raise error

    async def reopen(self):
        pass

    async def close(self):
        pass

    async def next(self, query):
        self.asked.append(query)
        self._fail("next")
        if query.known_revision == self.instruction.revision:
            await self.changed.wait()
        return replace(self.instruction, last_report=self.last)

    async def report(self, request):
        report = codec.decode_report(messages.ReportRequest.FromString(request))
        self._fail("report")
        if report not in self.heard:
            assert report.sequence == self.last + 1
            self.last = report.sequence
            self.heard.append(report)
        return ReportReply(sequence=report.sequence, in_round=True, message="")

    async def membership(self):
        self._fail("membership")
        return b"list"

    async def renew(self, request_pem):
        raise UnreachableError(f"not now ({len(request_pem)})")

    async def upload_offset(self, ref):
        del ref
        return 0

    async def upload(self, ref, chunks, *, stall_s):
        del stall_s
        self._fail("upload")
        self.uploaded = b"".join([bytes(codec.parse_upload_chunk(chunk.message, ref)[1]) async for chunk in chunks])
        return ref.size

    async def download(self, ref, begin, *, stall_s):
        del stall_s
        self._fail("download")
        yield begin, self.blobs[ref.sha256][begin:]


def loaded_of(folder):
    """Return the identity of site a; its key is the folder's."""
    facts = SimpleNamespace(renew_after=datetime(2999, 1, 1, tzinfo=UTC))
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(str(folder).encode()).digest())
    who = Identity(consortium="test", role=Role.SITE, id="a")
    return SimpleNamespace(facts=facts, identity=who, identity_key=key)


def tools_of(folder, script, trainer, standing=None, policy=PLAIN):
    config = config_of(folder, "localhost:1", "localhost:2", MODALITIES)
    folder.mkdir(exist_ok=True)
    status, downloads = StatusFile(folder), Downloads(folder / "downloads", stall_s=5.0)
    loaded, notes = loaded_of(folder), Noted()
    charges = charges_of(folder, loaded, trainer, policy, notes, clock=lambda: 0.0)
    return Tools(
        config=config,
        identity=SimpleNamespace(loaded=loaded),
        coordinator=script,
        training=Training(config, "a", trainer, downloads, status, charges),
        downloads=downloads,
        ledger=Ledger(folder / "reports.json"),
        standing=standing or SimpleNamespace(check=lambda *_, **__: LISTED),
        status=status,
        clock=lambda: 0.0,
        **policy_tools(folder, "a", policy, notes),
    )


def play(folder, scenario, **options):
    policy = options.pop("policy", PLAIN)

    async def whole():
        script, trainer = Script(**options), IdleTrainer(LAYOUT, MODALITIES)
        tools = tools_of(folder, script, trainer, policy=policy)
        until = asyncio.Event()
        task = asyncio.create_task(build_agent(tools, until_finished=False).run(until))
        try:
            async with asyncio.timeout(LIMIT_S):
                await scenario(script, trainer, tools)
        finally:
            until.set()
            await task

    asyncio.run(whole())


def test_a_round_is_downloaded_accepted_trained_and_submitted(tmp_path):
    async def scenario(script, trainer, tools):
        script.say(script.train())
        await until_true(lambda: script.bodies(Trained))
        script.say(script.submit())
        await until_true(lambda: script.bodies(Submitted))
        assert [type(report.body) for report in script.heard] == [Accepted, Trained, Submitted]
        assert ref_of(script.uploaded) == script.bodies(Trained)[0].manifest.vector
        assert trainer.jobs == ["open", "round"]
        assert tools.status.now.connected

    play(tmp_path, scenario)


def test_a_result_is_used_again_in_the_next_attempt_with_the_same_inputs(tmp_path):
    async def scenario(script, trainer, _):
        script.say(script.train())
        await until_true(lambda: script.bodies(Trained))
        script.say(script.train(replace(ROUND, attempt=2)))
        await until_true(lambda: len(script.bodies(Trained)) == 2)
        assert trainer.jobs == ["open", "round"]
        assert script.bodies(Trained)[0] == script.bodies(Trained)[1]

    play(tmp_path, scenario)


def test_training_of_an_older_round_is_stopped_and_the_new_one_is_trained(tmp_path):
    async def scenario(script, trainer, _):
        trainer.hang = asyncio.Event()
        script.say(script.train())
        await trainer.hanging.wait()
        trainer.hang = None
        script.say(script.train(RoundId(run="r", round_number=2), content=b"newer"))
        await until_true(lambda: script.bodies(Trained))
        assert script.heard[-1].round.round_number == 2

    play(tmp_path, scenario)


def test_a_broken_connection_ends_no_training(tmp_path):
    async def scenario(script, trainer, tools):
        trainer.hang = asyncio.Event()
        script.say(script.train())
        await trainer.hanging.wait()
        script.fail["next"] = [UnreachableError("gone")] * 5
        script.changed.set()
        await until_true(lambda: not script.fail["next"])
        trainer.hang.set()
        await until_true(lambda: script.bodies(Trained))
        assert trainer.jobs.count("round") == 1
        assert tools.status.now.last_error == "gone."

    play(tmp_path, scenario)


def test_a_report_that_was_not_answered_is_repeated_byte_by_byte(tmp_path):
    async def scenario(script, _trainer, tools):
        script.fail["report"] = [UnreachableError("lost"), UnauthenticatedError("expired"), None]
        script.say(script.train())
        await until_true(lambda: tools.ledger.last == 2)
        assert [report.sequence for report in script.heard] == [1, 2]

    play(tmp_path, scenario)


def test_a_report_out_of_date_makes_the_agent_ask_again_from_0(tmp_path):
    async def scenario(script, _trainer, _tools):
        script.fail["report"] = [StaleError("older")]
        script.say(script.train())
        await until_true(lambda: script.bodies(Trained))
        assert [query.known_revision for query in script.asked].count(0) >= 2

    play(tmp_path, scenario)


def test_a_rejected_announcement_declines_the_round(tmp_path):
    async def scenario(script, _trainer, _tools):
        script.fail["report"] = [None, RejectedError("the layout wants another")]
        script.say(script.train())
        await until_true(lambda: script.bodies(Declined))
        assert script.bodies(Declined)[0].cause is DeclineCause.UPDATE

    play(tmp_path, scenario)


def test_a_run_with_other_modalities_is_declined_before_anything_is_trained(tmp_path):
    async def scenario(script, trainer, _):
        script.say(script.train())
        await until_true(lambda: script.bodies(Declined))
        assert script.bodies(Declined)[0].cause is DeclineCause.POLICY
        assert trainer.jobs == []

    play(tmp_path, scenario, own=("flair",))


def test_a_context_that_differs_is_declined_and_nothing_is_uploaded(tmp_path):
    async def scenario(script, _trainer, _tools):
        script.say(script.train())
        await until_true(lambda: script.bodies(Trained))
        wrong = script.submit()
        script.say(replace(wrong, task=replace(wrong.task, context="0" * 64), revision=7))
        await until_true(lambda: script.bodies(Declined))
        assert script.uploaded == b""

    play(tmp_path, scenario)


@pytest.mark.parametrize("times", [1, 2])
def test_an_upload_that_arrives_damaged_is_sent_once_more(tmp_path, times):
    async def scenario(script, _trainer, _tools):
        script.say(script.train())
        await until_true(lambda: script.bodies(Trained))
        script.fail["upload"] = [CorruptedError("hash")] * times
        script.say(script.submit())
        await until_true(lambda: script.bodies(Submitted) or script.bodies(Declined))
        assert bool(script.bodies(Declined)) is (times == 2)

    play(tmp_path, scenario)


def test_downloads_of_the_last_two_broadcasts_are_kept(tmp_path):
    async def scenario(script, _trainer, tools):
        for number in (1, 2, 3):
            content = f"broadcast {number}".encode()
            script.say(script.train(RoundId(run="r", round_number=number), content=content))
            await until_true(lambda: len(script.bodies(Trained)) == number)  # noqa: B023  awaited in this turn
        script.say(script.wait("over"))
        await until_true(lambda: tools.status.now.waiting == "over")
        old = ArtefactRef(sha256=ref_of(b"broadcast 1").sha256, size=11)
        assert not tools.downloads.has(old)
        assert tools.downloads.has(ref_of(b"broadcast 2"))
        assert tools.downloads.has(ref_of(b"broadcast 3"))

    play(tmp_path, scenario)


def test_what_the_agent_does_is_told_with_the_heartbeat(tmp_path):
    async def scenario(script, trainer, _):
        trainer.hang = asyncio.Event()
        script.say(script.train())
        await trainer.hanging.wait()
        await until_true(lambda: script.asked[-1].activity.kind.name == "TRAINING")
        assert script.asked[-1].activity.round == ROUND
        trainer.hang.set()

    play(tmp_path, scenario)


def test_an_update_in_clear_is_refused_before_anything_is_trained(tmp_path):
    async def scenario(script, trainer, tools):
        script.say(script.train())
        await until_true(lambda: script.bodies(Declined))
        assert script.bodies(Declined)[0].cause is DeclineCause.POLICY
        assert trainer.jobs == []
        (noted,) = tools.notes.of("round.declined")
        assert noted[3]["clause"] == "policy aggregation.plain"

    play(tmp_path, scenario, policy=Policy())


def test_a_step_in_clear_is_refused_whatever_was_trained(tmp_path):
    async def scenario(script, _trainer, _tools):
        script.say(script.submit())
        await until_true(lambda: script.bodies(Declined))
        assert script.bodies(Declined)[0].cause is DeclineCause.POLICY
        assert script.uploaded == b""

    play(tmp_path, scenario, policy=Policy())


def test_a_run_waits_for_a_person_and_is_trained_once_it_was_approved(tmp_path, monkeypatch):
    monkeypatch.setattr("site_agent.driver._APPROVALS_S", 0.05)

    async def scenario(script, trainer, tools):
        script.say(script.train())
        await until_true(lambda: "policy approve run/r" in tools.status.now.waiting)
        assert trainer.jobs == []
        assert script.bodies(Accepted) == []
        approvals = Approvals(tmp_path)
        approvals.decide(approvals.find("run/r"), approved=True, by="kim", at=datetime.now(UTC))
        await until_true(lambda: script.bodies(Trained))
        assert tools.notes.of("policy.approved")

    approval = {"aggregation": {"plain": True}, "approval": {"runs": "person"}}
    play(tmp_path, scenario, policy=Policy.model_validate(approval))


def test_what_matters_to_an_auditor_is_on_record(tmp_path):
    async def scenario(script, _trainer, tools):
        script.say(script.train())
        await until_true(lambda: script.bodies(Trained))
        script.say(script.submit())
        await until_true(lambda: tools.notes.of("round.submitted"))
        actions = [record[0] for record in tools.notes.records]
        assert actions == [
            "privacy.begun",
            "membership.accepted",
            "round.accepted",
            "run.begun",
            "round.trained",
            "round.submitted",
        ]

    play(tmp_path, scenario)


def test_pauses_are_random_and_bounded():
    from site_agent.backoff import LONGEST_S, Backoff

    drawn = []
    backoff = Backoff(uniform=lambda low, high: drawn.append((low, high)) or high)
    pauses = [backoff.failed() for _ in range(12)]
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_S
    assert {low for low, _ in drawn} == {0.0}
    backoff.succeeded()
    assert backoff.failed() == 1.0
    assert no_pause().failed() == 0.0
