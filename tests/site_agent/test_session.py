"""The decision table: every instruction against every state of the facts, and crashes at every point."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.terms import (
    Accepted,
    Advertise,
    Advertised,
    ArtefactRef,
    BroadcastSegment,
    Confirm,
    Confirmed,
    DeclineCause,
    Declined,
    Finish,
    Finished,
    Instruction,
    Mask,
    Masked,
    Prepared,
    RoundId,
    SegmentSlice,
    Share,
    Shared,
    Submit,
    Submitted,
    Train,
    Trained,
    Unmask,
    Unmasked,
    VectorManifest,
    Wait,
)
from site_agent.session import (
    Answer,
    CheckMembership,
    DoTrain,
    Download,
    Facts,
    FinishRun,
    Made,
    MaskInput,
    Nothing,
    Resend,
    Result,
    Tell,
    Upload,
    artefacts_of,
    decide,
    inputs_key,
    still_wanted,
)


def ref(letter, size=8):
    return ArtefactRef(sha256=letter * 64, size=size)


ROUND = RoundId(run="r", round_number=3)
SPEC, SEGMENT, VECTOR, OTHER = ref("a"), ref("b"), ref("c"), ref("d")
TRAIN = Train(
    segments=(BroadcastSegment(name="common", artefact=SEGMENT, owners=2),), anchors=None, start=None, samples=4.0
)
SUBMIT = Submit(roster=("s",), context="0" * 64)
FINISH = Finish(completed=True, reason="", last=TRAIN)
WAIT = Wait(reason="nothing")
MANIFEST = VectorManifest(segments=(SegmentSlice(name="common", values=2),), vector=VECTOR)
RESULT = Result(key="k", manifest=MANIFEST, seconds=1.0)
ADVERTISE = Advertise(
    roster=(),
    membership_version=1,
    membership_digest="0" * 64,
    layout_digest="0" * 64,
    segments=(),
    broadcast=(),
    previous=(),
    context="0" * 64,
)
SHARE, CONFIRM, UNMASK = Share(keys=()), Confirm(survivors=("s",)), Unmask(signatures=())
MASK = Mask(sharers=("s",), shares=())
MASKED = VectorManifest(segments=MANIFEST.segments, vector=ref("e"))
REFUSAL = Declined(cause=DeclineCause.POLICY, problem="no")


def instruction(task, round_id=ROUND):
    return Instruction(revision=1, round=round_id, run_spec=SPEC, seconds_left=0.0, task=task)


TELL_TRAINED = Tell(round=ROUND, body=Trained(manifest=MANIFEST, seconds=1.0))
READY = Facts(standing=True, listed=1, plain=True)
TABLE = [
    (WAIT, READY, Nothing),
    (WAIT, replace(READY, pending=True), Resend),
    (TRAIN, Facts(), CheckMembership),
    (TRAIN, Facts(standing=False), Nothing),
    (TRAIN, replace(READY, refusal=REFUSAL), Tell(round=ROUND, body=REFUSAL)),
    (TRAIN, replace(READY, refusal=REFUSAL, made=Made(out=True)), Nothing),
    (TRAIN, replace(READY, missing=(SPEC, SEGMENT)), Download(ref=SPEC, then=(SEGMENT,))),
    (TRAIN, READY, Tell(round=ROUND, body=Accepted())),
    (TRAIN, replace(READY, made=Made(accepted=True)), DoTrain(round=ROUND, spec=SPEC, task=TRAIN)),
    (TRAIN, replace(READY, result=RESULT), TELL_TRAINED),
    (TRAIN, replace(READY, result=RESULT, missing=(SEGMENT,)), TELL_TRAINED),
    (TRAIN, replace(READY, result=RESULT, made=Made(trained=VECTOR)), Nothing),
    (SUBMIT, replace(READY, result=RESULT, made=Made(trained=VECTOR)), Upload(round=ROUND, ref=VECTOR)),
    (SUBMIT, replace(READY, result=RESULT, uploaded=True), Tell(round=ROUND, body=Submitted(vector=VECTOR))),
    (SUBMIT, replace(READY, result=RESULT, uploaded=True, made=Made(submitted=True)), Nothing),
    (FINISH, Facts(missing=(SEGMENT,)), Download(ref=SEGMENT)),
    (FINISH, Facts(), FinishRun(round=ROUND, spec=SPEC, task=FINISH)),
    (FINISH, Facts(made=Made(out=True), kept=True), Tell(round=ROUND, body=Finished())),
    (FINISH, Facts(made=Made(finished=True), kept=True), Nothing),
]


@pytest.mark.parametrize(("task", "facts", "wanted"), TABLE)
def test_the_table(task, facts, wanted):
    found = decide(instruction(task), facts)
    assert isinstance(found, wanted) if isinstance(wanted, type) else found == wanted


@pytest.mark.parametrize("result", [None, RESULT])
def test_a_contribution_that_is_lost_or_another_one_is_declined(result):
    facts = replace(READY, result=result, made=Made(trained=OTHER))
    action = decide(instruction(SUBMIT), facts)
    assert isinstance(action, Tell)
    assert isinstance(action.body, Declined)
    assert action.body.cause is DeclineCause.UPDATE


SECURE = replace(READY, plain=False, result=RESULT)
HAVING = replace(SECURE, masked=MASKED)
SECURE_TABLE = [
    (TRAIN, replace(READY, plain=None, missing=(SPEC, SEGMENT)), Download(ref=SPEC)),
    (TRAIN, replace(READY, plain=None), Nothing),
    (TRAIN, SECURE, Tell(round=ROUND, body=Prepared(segments=MANIFEST.segments, seconds=1.0))),
    (TRAIN, replace(SECURE, made=Made(prepared=True)), Nothing),
    (TRAIN, replace(SECURE, result=None, made=Made(accepted=True)), DoTrain(round=ROUND, spec=SPEC, task=TRAIN)),
    (TRAIN, replace(SECURE, approval="waiting for a person"), Nothing(reason="waiting for a person")),
    (TRAIN, replace(SECURE, approval="waiting for a person", refusal=REFUSAL), Tell(round=ROUND, body=REFUSAL)),
    (ADVERTISE, SECURE, Answer(round=ROUND, spec=SPEC, task=ADVERTISE)),
    (ADVERTISE, replace(SECURE, listed=0), CheckMembership(version=1)),
    (ADVERTISE, replace(SECURE, made=Made(advertised=True)), Nothing),
    (SHARE, SECURE, Answer(round=ROUND, spec=SPEC, task=SHARE)),
    (SHARE, replace(SECURE, made=Made(shared=True)), Nothing),
    (MASK, SECURE, MaskInput(round=ROUND, spec=SPEC, task=MASK)),
    (MASK, HAVING, Tell(round=ROUND, body=Masked(manifest=MASKED))),
    (MASK, replace(HAVING, made=Made(masked=ref("e"))), Upload(round=ROUND, ref=ref("e"), masked=True)),
    (
        MASK,
        replace(HAVING, made=Made(masked=ref("e")), uploaded=True),
        Tell(round=ROUND, body=Submitted(vector=ref("e"))),
    ),
    (MASK, replace(HAVING, made=Made(masked=ref("e"), submitted=True)), Nothing),
    (CONFIRM, SECURE, Answer(round=ROUND, spec=SPEC, task=CONFIRM)),
    (CONFIRM, replace(SECURE, made=Made(confirmed=True)), Nothing),
    (UNMASK, SECURE, Answer(round=ROUND, spec=SPEC, task=UNMASK)),
    (UNMASK, replace(SECURE, made=Made(unmasked=True)), Nothing),
]
STEPS = [ADVERTISE, SHARE, MASK, CONFIRM, UNMASK]


@pytest.mark.parametrize(("task", "facts", "wanted"), SECURE_TABLE)
def test_the_table_of_secure_rounds(task, facts, wanted):
    found = decide(instruction(task), facts)
    assert isinstance(found, wanted) if isinstance(wanted, type) else found == wanted


def declined(task, facts):
    action = decide(instruction(task), facts)
    assert isinstance(action, Tell)
    assert isinstance(action.body, Declined)
    return action.body.cause


@pytest.mark.parametrize("task", STEPS)
def test_before_any_step_come_membership_refusal_approval_and_the_specification(task):
    for facts, wanted in [
        (replace(SECURE, pending=True), Resend),
        (replace(SECURE, made=Made(out=True)), Nothing),
        (replace(SECURE, standing=None), CheckMembership),
        (replace(SECURE, standing=False), Nothing),
        (replace(SECURE, approval="waiting"), Nothing),
        (replace(SECURE, plain=None, missing=(SPEC,)), Download),
    ]:
        assert isinstance(decide(instruction(task), facts), wanted)
    assert declined(task, replace(SECURE, refusal=REFUSAL)) is DeclineCause.POLICY


@pytest.mark.parametrize("task", STEPS)
def test_a_step_of_the_other_mode_or_without_a_contribution_is_declined(task):
    assert declined(task, replace(SECURE, plain=True)) is DeclineCause.POLICY
    assert declined(task, replace(SECURE, result=None)) is DeclineCause.UPDATE


def test_in_a_secure_run_nothing_is_ever_sent_in_clear():
    for made in (Made(), Made(trained=VECTOR), Made(masked=VECTOR)):
        for uploaded in (False, True):
            assert declined(SUBMIT, replace(SECURE, made=made, uploaded=uploaded)) is DeclineCause.POLICY


def test_another_masked_vector_than_the_announced_one_is_declined():
    assert declined(MASK, replace(HAVING, made=Made(masked=OTHER))) is DeclineCause.UPDATE


def test_a_masked_upload_stops_when_it_is_not_asked_for():
    upload = Upload(round=ROUND, ref=ref("e"), masked=True)
    assert still_wanted(upload, instruction(MASK))
    assert not still_wanted(upload, instruction(SUBMIT))
    assert not still_wanted(upload, instruction(WAIT))
    assert still_wanted(Answer(round=ROUND, spec=SPEC, task=SHARE), instruction(WAIT)), "what was begun is said"


FACTS = [
    Facts(
        pending=pending,
        missing=missing,
        standing=standing,
        plain=True,
        refusal=refusal,
        result=result,
        made=Made(accepted=accepted, trained=trained, submitted=submitted, finished=finished, out=out),
        uploaded=uploaded,
        kept=kept,
    )
    for pending, missing, standing, refusal, result, accepted, trained, submitted, finished, out, uploaded, kept in (
        itertools.product(
            (False, True),
            ((), (SEGMENT,)),
            (None, False, True),
            (None, REFUSAL),
            (None, RESULT),
            (False, True),
            (None, VECTOR, OTHER),
            (False, True),
            (False, True),
            (False, True),
            (False, True),
            (False, True),
        )
    )
]


@pytest.mark.parametrize("task", [WAIT, TRAIN, SUBMIT, FINISH])
def test_every_instruction_meets_every_state_with_one_safe_action(task):
    for facts in FACTS:
        action = decide(instruction(task), facts)
        if facts.pending:
            assert isinstance(action, Resend)
        if isinstance(action, Upload | DoTrain):
            assert facts.standing
            assert facts.refusal is None
            assert not facts.made.out
        if isinstance(action, Upload):
            assert facts.made.trained in (None, action.ref), "never another vector than the announced one"
        if isinstance(action, Tell) and isinstance(action.body, Trained):
            assert facts.made.trained is None, "one vector for one round"


def test_the_same_inputs_have_the_same_key_in_every_attempt():
    again = replace(ROUND, attempt=2)
    assert inputs_key(ROUND, SPEC, TRAIN) == inputs_key(again, SPEC, TRAIN)
    assert inputs_key(ROUND, SPEC, TRAIN) != inputs_key(ROUND, SPEC, replace(TRAIN, samples=5.0))


def test_training_goes_on_while_its_round_or_its_inputs_do():
    training = DoTrain(round=ROUND, spec=SPEC, task=TRAIN)
    again = replace(ROUND, attempt=2)
    assert still_wanted(training, instruction(TRAIN, again))
    assert still_wanted(training, instruction(WAIT))
    assert not still_wanted(training, instruction(replace(TRAIN, samples=9.0), again))
    assert not still_wanted(training, instruction(TRAIN, replace(ROUND, round_number=4)))
    assert not still_wanted(training, replace(instruction(WAIT), round=None))


def test_transfers_stop_when_they_are_not_asked_for():
    assert still_wanted(Download(ref=SEGMENT), instruction(TRAIN))
    assert not still_wanted(Download(ref=OTHER), instruction(TRAIN))
    assert not still_wanted(Download(ref=SEGMENT, then=(OTHER,)), instruction(TRAIN))
    assert not still_wanted(Upload(round=ROUND, ref=VECTOR), instruction(WAIT))
    assert not still_wanted(FinishRun(round=ROUND, spec=SPEC, task=FINISH), instruction(TRAIN))
    assert still_wanted(Resend(), instruction(WAIT))


def test_the_end_of_a_run_is_seen_through_also_when_the_next_one_has_begun():
    ending = FinishRun(round=ROUND, spec=SPEC, task=FINISH)
    for task in (WAIT, TRAIN):
        assert still_wanted(ending, instruction(task, replace(ROUND, run="next")))
    assert still_wanted(ending, replace(instruction(WAIT), round=None))


@pytest.mark.parametrize("task", [WAIT, TRAIN, SUBMIT, FINISH])
def test_a_run_that_ended_without_the_site_is_ended_before_anything_else_but_a_report(task):
    left = FinishRun(round=replace(ROUND, run="earlier"), spec=SPEC, task=FINISH)
    assert decide(instruction(task), Facts(left=left)) == left
    assert isinstance(decide(instruction(task), Facts(left=left, pending=True)), Resend)


def test_waiting_wants_no_downloads():
    assert artefacts_of(instruction(WAIT)) == ()
    assert artefacts_of(instruction(TRAIN)) == (SPEC, SEGMENT)
    assert artefacts_of(instruction(FINISH)) == (SPEC, SEGMENT)


FLAGS = {
    Prepared: "prepared",
    Advertised: "advertised",
    Shared: "shared",
    Submitted: "submitted",
    Confirmed: "confirmed",
    Unmasked: "unmasked",
}
BODIES = {
    Advertise: Advertised(channel_key=b"c", mask_key=b"m", minimum=4, colluders=0, signature=b"s"),
    Share: Shared(commitments=(), shares=()),
    Confirm: Confirmed(signature=b"s"),
    Unmask: Unmasked(seeds=(), keys=()),
}


@dataclass
class SecureSite:
    """A site of which only what it made durable and what was answered survives a crash."""

    kept: dict = field(default_factory=dict)
    masked: VectorManifest | None = None
    made: Made = field(default_factory=Made)
    pending: object = None
    standing: bool | None = None
    uploaded: bool = False
    heard: list = field(default_factory=list)

    @property
    def task(self):
        """What a coordinator asks next."""
        done = [type(body) for body in self.heard]
        order = [(Prepared, TRAIN), (Advertised, ADVERTISE), (Shared, SHARE), (Submitted, MASK), (Confirmed, CONFIRM)]
        return next((task for kind, task in order if kind not in done), UNMASK)

    def facts(self):
        return replace(
            SECURE,
            pending=self.pending is not None,
            standing=self.standing,
            masked=self.masked,
            made=self.made,
            uploaded=self.uploaded,
        )

    def crash(self):
        self.standing, self.uploaded = None, False

    def perform(self, action, *, until):
        match action:
            case CheckMembership():
                self.standing = True
            case MaskInput() if until > 1:
                self.masked = MASKED
            case Upload(ref=one, masked=True) if until > 1:
                assert one == MASKED.vector
                self.uploaded = True
            case Answer(task=task) if until > 0:
                body = self.kept.setdefault(type(task), BODIES[type(task)])
                if until > 1:
                    self.tell(body, until)
            case Tell(body=body) if until > 0:
                self.tell(body, until)
            case Resend():
                self.tell(self.pending, until)

    def tell(self, body, until):
        self.pending = body
        if body not in self.heard:
            self.heard.append(body)
        if until > 1:
            name = "masked" if isinstance(body, Masked) else FLAGS[type(body)]
            self.made = replace(self.made, **{name: body.manifest.vector if isinstance(body, Masked) else True})
            self.pending = None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=60))
def test_whatever_crashes_each_step_of_a_secure_round_is_said_once_and_in_order(points):
    site = SecureSite()
    for until in itertools.chain(points, itertools.repeat(2, 30)):
        site.perform(decide(instruction(site.task), site.facts()), until=until)
        if until < 2:
            site.crash()
    said = [Prepared, Advertised, Shared, Masked, Submitted, Confirmed, Unmasked]
    assert [type(body) for body in site.heard] == said


@dataclass
class Site:
    """Disk and memory of a site, and what the coordinator knows; a crash loses memory alone."""

    here: set = field(default_factory=set)
    result: Result | None = None
    made: Made = field(default_factory=Made)
    pending: object = None
    standing: bool | None = None
    uploaded: bool = False
    heard: list = field(default_factory=list)
    trained: int = 0

    def facts(self, task):
        missing = tuple(one for one in artefacts_of(instruction(task)) if one not in self.here)
        return Facts(
            pending=self.pending is not None,
            missing=missing,
            standing=self.standing,
            plain=None if SPEC in missing else True,
            result=self.result,
            made=self.made,
            uploaded=self.uploaded,
        )

    def crash(self):
        self.standing, self.uploaded = None, False

    @property
    def task(self):
        ready = any(isinstance(body, Trained) for body in self.heard)
        return SUBMIT if ready else TRAIN

    def perform(self, action, *, until):
        """Do an action up to a point: 0 before anything, 1 in the middle, 2 all of it."""
        match action:
            case CheckMembership():
                self.standing = True
            case Download(ref=one) if until > 1:
                self.here.add(one)
            case DoTrain() if until > 1:
                self.trained += 1
                self.result = RESULT
            case Upload() if until > 1:
                self.uploaded = True
            case Tell(body=body) if until > 0:
                self.pending = body
                self.send(until)
            case Resend():
                self.send(until)

    def send(self, until):
        if self.pending not in self.heard:
            self.heard.append(self.pending)
        if until > 1:
            match self.pending:
                case Accepted():
                    self.made = replace(self.made, accepted=True)
                case Trained(manifest=manifest):
                    self.made = replace(self.made, trained=manifest.vector)
                case Submitted():
                    self.made = replace(self.made, submitted=True)
            self.pending = None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=40))
def test_whatever_crashes_the_site_submits_and_announces_one_vector(points):
    site = Site()
    for until in itertools.chain(points, itertools.repeat(2, 20)):
        task = site.task
        site.perform(decide(instruction(task), site.facts(task)), until=until)
        if until < 2:
            site.crash()
    assert site.made.submitted
    assert [body for body in site.heard if isinstance(body, Trained)] == [TELL_TRAINED.body]
    assert site.heard == [Accepted(), TELL_TRAINED.body, Submitted(vector=VECTOR)]
