"""Private rounds: paid before they are trained, released before they are told, the same bytes whatever is killed."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fedmepd.plan import parse_plan
from fedmepd.runspec import make_spec
from protos.terms import (
    Activity,
    ActivityKind,
    DeclineCause,
    Declined,
    LedgerHead,
    Prepared,
    RoundId,
    Submitted,
    Train,
    Trained,
)
from security import keys
from security.errors import LedgerError
from security.identity import Identity, Role
from security.privacy.heads import head_message
from site_agent.errors import RefusalError
from site_agent.policy_file import Policy
from site_agent.purse import FILE, Purse
from site_agent.witnessing import STOPPED
from site_agent.workspace import Workspace
from tests.federation.hospital import MODALITIES
from tests.site_agent.agent_at_hand import IdleTrainer, Noted, build_agent, close_ledgers, until_true
from tests.site_agent.test_driver import LAYOUT, LISTED, ROUND, Script, loaded_of, tools_of
from tests.site_agent.test_transfers import ref_of

LIMIT_S = 20
NOISY = {"noise": 1.0, "batch": 4, "steps": 1}  # each round comes to 1 by the made-up accountant
TOO_MUCH, FITS = "epsilon 3 at delta 1e-05, and", "2 of 3 rounds fit as they are"
SECOND = RoundId(run="r", round_number=2)


class Killed(BaseException):
    """A SIGKILL, as far as what is on the disk goes."""


def policy_of(epsilon=8.0, delta=1e-5, **privacy):
    budget = {} if epsilon is None else {"epsilon": epsilon, "delta": delta}
    return Policy.model_validate({"aggregation": {"plain": True}, "privacy": {**budget, **privacy}})


class Party:
    """Somebody else with a ledger."""

    def __init__(self, role, name, key=None):
        self.owner = Identity(consortium="test", role=role, id=name).uri
        self.key = key or keys.make_signing_key()

    def head(self, sequence, digit="a"):
        found = digit * 64
        return LedgerHead(
            owner=self.owner,
            key=keys.public_bytes(self.key),
            sequence=sequence,
            hash=found,
            signature=self.key.sign(head_message("test", self.owner, sequence, found)),
        )


COORDINATOR = Party(Role.COORDINATOR, "coordinator")
PEER = Party(Role.SITE, "b")


@pytest.fixture(autouse=True)
def _listed(monkeypatch):
    member = SimpleNamespace(site="b", identity_key=keys.public_bytes(PEER.key), modalities=MODALITIES)
    monkeypatch.setattr(LISTED, "members", (member,))


class Hospital:
    """Site a with a disk; agents are started on it one after the other.

    Args:
        folder: Its disk.
        policy: Its own.
        sites: The plan's `privacy.sites`; None for a run without noise.
        rounds: Of the plan.
        aggregation: Of the run.
    """

    def __init__(self, folder, policy=None, sites=NOISY, rounds=3, aggregation="plain"):
        self.folder, self.policy = folder, policy or policy_of()
        self.script, self.trainer = Script(), IdleTrainer(LAYOUT, MODALITIES)
        plan = {"run": {"name": "test", "rounds": rounds, "methods": ["fedmepd"]}}
        if sites is not None:
            plan["privacy"] = {"sites": sites}
        members = dict.fromkeys("ab" if aggregation == "plain" else "abcde", MODALITIES)
        spec = make_spec(parse_plan(plan, source=""), run_id="r", sites=members, aggregation=aggregation)
        self.script.spec = json.dumps(spec.to_dict()).encode()
        self.script.blobs[ref_of(self.script.spec).sha256] = self.script.spec
        self.owners = len(members)
        self.tools = self.agent = None

    def train(self, round_id=ROUND, content=b"segment", heads=()):
        found = self.script.train(round_id, content)
        segments = tuple(replace(segment, owners=self.owners) for segment in found.task.segments)
        task = replace(found.task, segments=segments, heads=tuple(heads))
        return replace(found, task=task, revision=found.revision + len(heads) + 1)

    def play(self, *instructions, until, prepare=lambda tools: None):
        """Start an agent, tell it one thing after the other, each once `until` the one before; return all reports."""

        async def whole():
            self.script.changed = asyncio.Event()
            self.script.instruction = self.script.wait("nothing")
            self.tools, stop = tools_of(self.folder, self.script, self.trainer, policy=self.policy), asyncio.Event()
            prepare(self.tools)
            self.agent = build_agent(self.tools, until_finished=False)
            running = asyncio.create_task(self.agent.run(stop))
            try:
                async with asyncio.timeout(LIMIT_S):
                    for instruction, enough in zip(instructions, until, strict=True):
                        self.script.say(instruction)
                        await until_true(lambda enough=enough: enough() or running.done())
            finally:
                stop.set()
                await running

        asyncio.run(whole())
        return [report.body for report in self.script.heard]

    def has(self, kind, count=1):
        return lambda: len(self.script.bodies(kind)) >= count

    @property
    def ledger(self):
        return self.tools.purse.ledger

    @property
    def kinds(self):
        return [entry.kind for entry in self.ledger.entries()]

    @property
    def notes(self):
        return self.tools.notes

    @property
    def declined(self):
        return self.script.bodies(Declined)[-1]


def test_a_round_is_paid_for_before_it_is_trained_and_released_before_it_is_told(tmp_path):
    site = Hospital(tmp_path)
    seen = {}

    inner = site.trainer._contribute

    def contribute(arguments):
        seen["training"] = site.kinds
        return inner(arguments)

    site.trainer._contribute = contribute
    site.play(site.train(), until=[site.has(Trained)])
    assert seen["training"] == ["opened", "budget", "debit"]
    assert site.kinds == ["opened", "budget", "debit", "release"]
    (debit,) = site.ledger.debits
    assert debit.released == site.script.bodies(Trained)[0].manifest.vector.sha256
    assert (debit.claim.patients, debit.claim.rate, debit.claim.steps) == (100, 0.04, 1)
    assert debit.claim.recipients == "the coordinator as it is, sites a, b in a sum"
    assert site.trainer.jobs == ["open", "account", "round"]
    assert site.notes.of("privacy.debit")[0][3]["spent"] == 1.0
    assert site.notes.of("privacy.release")[0][3]["sha256"] == debit.released


def test_a_secure_round_is_released_before_it_is_said_to_be_prepared(tmp_path):
    policy = Policy.model_validate({"privacy": {"epsilon": 8.0, "delta": 1e-5}})
    site = Hospital(tmp_path, policy, aggregation="secure")
    site.play(site.train(), until=[site.has(Prepared)])
    result = Workspace(tmp_path, "r").result(1)
    assert [debit.released for debit in site.ledger.debits] == [result.manifest.vector.sha256]
    assert site.ledger.debits[0].claim.recipients.endswith("sites a, b, c, d, e, in a sum over sites")


def test_of_a_private_round_is_told_neither_how_far_it_is_nor_how_long_it_took_to_the_second(tmp_path):
    site = Hospital(tmp_path)
    seen, run, inner = [], site.trainer.run, site.trainer._contribute

    async def counting(job, arguments, progress):
        def told(phase, done, total):
            progress(phase, done, total)
            seen.append((site.agent._hands.activity, site.tools.status.now.done))

        if job == "round":
            for phase in ("reading", "training", "validating"):
                told(phase, 5, 10)
        return await run(job, arguments, told)

    site.trainer.run = counting
    site.trainer._contribute = lambda arguments: inner(arguments) | {"seconds": 61.5}
    site.play(site.train(), until=[site.has(Trained)])
    assert {activity for activity, _ in seen} == {Activity(kind=ActivityKind.TRAINING, round=ROUND)}
    assert 5 in [done for _, done in seen], "the site's own people see it"
    assert [body.seconds for body in site.script.bodies(Trained)] == [120.0]


def test_every_round_adds_to_what_was_spent(tmp_path):
    site = Hospital(tmp_path)
    site.play(site.train(), site.train(SECOND, b"2"), until=[site.has(Trained), site.has(Trained, 2)])
    assert [debit.spent for debit in site.ledger.debits] == [1.0, 2.0]
    assert [len(asked["histories"]) for asked in site.trainer.asked] == [2, 1], "the whole run is asked about once"


# -- kills ----------------------------------------------------------------------------------------------------------


def _kill(*_, **__):
    raise Killed


def before_training(site, _):
    run = site.trainer.run

    async def killed(job, arguments, progress):
        if job == "round":
            site.trainer.run = run
            raise Killed
        return await run(job, arguments, progress)

    site.trainer.run = killed


def after_training(_, tools):
    tools.purse.ledger.release = _kill


def after_release(_, tools):
    release = tools.purse.ledger.release

    def killed(*arguments):
        release(*arguments)
        raise Killed

    tools.purse.ledger.release = killed


def before_report(_, tools):
    prepare = tools.ledger.prepare

    def killed(round_id, body, heads):
        if isinstance(body, Trained):
            raise Killed
        return prepare(round_id, body, heads)

    tools.ledger.prepare = killed


def after_report(_, tools):
    send = tools.coordinator.report

    async def killed(request):
        reply = await send(request)
        if tools.coordinator.bodies(Trained):
            tools.coordinator.report = send
            raise Killed
        return reply

    tools.coordinator.report = killed


@pytest.mark.parametrize("moment", [before_training, after_training, after_release, before_report, after_report])
def test_whenever_it_is_killed_one_debit_covers_one_release_and_the_same_bytes_are_sent(tmp_path, moment):
    site = Hospital(tmp_path)
    with pytest.raises(Killed):
        site.play(site.train(), until=[lambda: False], prepare=lambda tools: moment(site, tools))
    site.play(site.train(), site.script.submit(), until=[site.has(Trained), site.has(Submitted)])
    (debit,) = site.ledger.debits
    assert {body.manifest.vector.sha256 for body in site.script.bodies(Trained)} == {debit.released}
    assert ref_of(site.script.uploaded).sha256 == debit.released


def test_a_kill_in_another_attempt_of_the_round_repeats_the_release(tmp_path):
    site = Hospital(tmp_path)
    site.play(site.train(), until=[site.has(Trained)])
    site.play(site.train(replace(ROUND, attempt=2)), until=[site.has(Trained, 2)])
    first, second = site.script.bodies(Trained)
    assert first.manifest == second.manifest
    assert len(site.ledger.debits) == 1


def test_a_contribution_that_left_and_was_lost_is_paid_for_again(tmp_path):
    site = Hospital(tmp_path)
    site.play(site.train(), until=[site.has(Trained)])
    Workspace(tmp_path, "r").contribution(1).unlink()
    site.play(site.train(replace(ROUND, attempt=2)), until=[site.has(Trained, 2)])
    first, second = site.ledger.debits
    assert first.released != second.released
    assert [body.manifest.vector.sha256 for body in site.script.bodies(Trained)] == [first.released, second.released]
    assert second.spent == 2.0


def test_a_contribution_that_was_lost_is_not_made_again_without_a_budget_for_it(tmp_path):
    site = Hospital(tmp_path, policy_of(epsilon=1.5), rounds=1)
    site.play(site.train(), until=[site.has(Trained)])
    Workspace(tmp_path, "r").contribution(1).unlink()
    site.play(site.train(replace(ROUND, attempt=2)), until=[site.has(Declined)])
    assert "the round would bring this site to epsilon 2" in site.declined.problem
    assert site.trainer.jobs.count("round") == 1


def test_a_contribution_whose_release_is_not_in_the_ledger_is_not_told(tmp_path):
    """As after a crash that took the ledger's disk and left the other one."""
    site = Hospital(tmp_path)
    site.play(site.train(), until=[site.has(Trained)])
    space = Workspace(tmp_path, "r")
    space.keep_result(1, replace(space.result(1), claim="0" * 64))
    site.play(site.script.submit(), until=[site.has(Declined)])
    assert site.declined.problem == "the contribution is no longer on the site's disk"


def test_what_the_trainer_cannot_give_again_is_paid_for_before_it_is_trained_again(tmp_path):
    """As when the trainer's state, and nothing else, comes from a backup."""
    site = Hospital(tmp_path)
    site.play(site.train(), until=[site.has(Trained)])
    (tmp_path / "runs" / "r" / "results" / "000001.json").unlink()
    inner, paid = site.trainer._contribute, []

    def without_state(arguments):
        paid.append((arguments["released"], len(site.ledger.debits)))
        if arguments["released"] is not None:
            return {"lost": True}
        Workspace(tmp_path, "r").contribution(1).unlink()
        return inner(arguments)

    site.trainer._contribute = without_state
    site.play(site.train(replace(ROUND, attempt=2)), until=[site.has(Trained, 2)])
    first, second = site.ledger.debits
    assert paid == [(first.released, 1), (None, 2)]
    assert site.script.bodies(Trained)[1].manifest.vector.sha256 == second.released != first.released


def test_a_file_that_is_not_what_was_released_does_not_leave(tmp_path):
    """As when another training of the round was broken off before its release was in the ledger."""
    site = Hospital(tmp_path)
    site.play(site.train(), until=[site.has(Trained)])
    path = Workspace(tmp_path, "r").contribution(1)
    path.write_bytes(bytes(path.stat().st_size))
    site.play(site.script.submit(), until=[site.has(Declined)])
    assert site.declined.problem == "the contribution is no longer on the site's disk"
    assert site.script.uploaded == b""


def test_other_inputs_are_another_release(tmp_path):
    site = Hospital(tmp_path)
    site.play(site.train(), until=[site.has(Trained)])
    other = site.train(replace(ROUND, attempt=2), b"other")
    Workspace(tmp_path, "r").contribution(1).unlink()  # the worker knows its inputs; this one does not
    site.play(other, until=[site.has(Trained, 2)])
    assert [debit.spent for debit in site.ledger.debits] == [1.0, 2.0]


def test_a_cohort_that_grew_is_counted_anew(tmp_path):
    site = Hospital(tmp_path)
    site.play(site.train(), until=[site.has(Trained)])
    site.trainer.patients = 200
    site.play(site.train(SECOND, b"2"), until=[site.has(Trained, 2)])
    assert [(debit.claim.patients, debit.claim.rate) for debit in site.ledger.debits] == [(100, 0.04), (200, 0.02)]


# -- what does not fit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "words", "clause"),
    [
        (
            policy_of(epsilon=2.5),
            f"the run would bring this site to {TOO_MUCH} 2.5 is allowed; {FITS}",
            "privacy.epsilon",
        ),
        (
            policy_of(dp_floor=2.0),
            f"the whole run comes at this site to {TOO_MUCH} 2 is allowed; {FITS}",
            "privacy.dp_floor",
        ),
        (policy_of(delta=0.01), "delta 0.01 is not below 1/100", "privacy.delta"),
        (policy_of(epsilon=None), "this site's policy sets none", "privacy.epsilon"),
        (policy_of(epsilon=None, dp_floor=9.0), "this site's policy sets none", "privacy.epsilon"),
    ],
)
def test_a_run_that_does_not_fit_is_declined_at_its_first_round_with_the_reason(tmp_path, policy, words, clause):
    site = Hospital(tmp_path, policy)
    site.play(site.train(), until=[site.has(Declined)])
    assert site.declined.cause is DeclineCause.POLICY
    assert words in site.declined.problem
    assert site.notes.of("round.declined")[0][3]["clause"] == f"policy {clause}"
    assert "round" not in site.trainer.jobs
    assert site.ledger.debits == ()


def test_a_run_that_was_refused_is_declined_again_without_downloads(tmp_path):
    site = Hospital(tmp_path, policy_of(epsilon=2.5))
    second = site.train(SECOND, b"2")
    site.play(site.train(), second, until=[site.has(Declined), site.has(Declined, 2)])
    assert set(site.trainer.jobs) == {"open", "account"}
    assert site.trainer.jobs.count("open") == 1
    assert not site.tools.downloads.has(second.task.segments[0].artefact)
    assert len(site.notes.of("privacy.refused")) == 1


def test_what_other_runs_spent_counts(tmp_path):
    site = Hospital(tmp_path, policy_of(epsilon=3.5))
    site.play(site.train(), until=[site.has(Trained)])
    spec = json.loads(site.script.spec)
    site.script.spec = json.dumps({**spec, "run_id": "s"}).encode()
    site.script.blobs[ref_of(site.script.spec).sha256] = site.script.spec
    site.play(site.train(RoundId(run="s", round_number=1)), until=[site.has(Declined)])
    assert "the run would bring this site to epsilon 4" in site.declined.problem


def test_what_a_run_paid_for_again_counts_for_the_floor(tmp_path):
    site = Hospital(tmp_path, policy_of(dp_floor=3.0))
    site.play(site.train(), until=[site.has(Trained)])
    Workspace(tmp_path, "r").contribution(1).unlink()
    site.play(site.train(replace(ROUND, attempt=2)), until=[site.has(Declined)])
    assert "the whole run comes at this site to epsilon 4" in site.declined.problem
    assert len(site.ledger.debits) == 1


def test_a_round_that_the_plan_does_not_have_is_declined_and_costs_nothing(tmp_path):
    site = Hospital(tmp_path)
    site.play(
        site.train(), site.train(RoundId(run="r", round_number=4), b"4"), until=[site.has(Trained), site.has(Declined)]
    )
    assert "round 4 is asked for, and the run's plan has 3" in site.declined.problem
    assert len(site.ledger.debits) == 1


def test_a_budget_that_is_lowered_in_the_middle_of_a_run_stops_it(tmp_path):
    site = Hospital(tmp_path)
    site.play(site.train(), until=[site.has(Trained)])
    site.policy = policy_of(epsilon=1.5)
    site.play(site.train(SECOND, b"2"), until=[site.has(Declined)])
    assert "the round would bring this site to epsilon 2" in site.declined.problem
    assert site.kinds.count("budget") == 2


def test_a_trainer_that_knows_no_advice_changes_no_verdict(tmp_path):
    site = Hospital(tmp_path, policy_of(epsilon=2.5))
    run = site.trainer.run

    async def silent(job, arguments, progress):
        if job == "account" and site.trainer.asked:
            raise RefusalError("died", cause=DeclineCause.TRAINER)
        return await run(job, arguments, progress)

    site.trainer.run = silent
    site.play(site.train(), until=[site.has(Declined)])
    assert site.declined.problem.endswith("what would fit is not known")


def test_an_epsilon_that_no_accountant_can_say_fits_nothing(tmp_path):
    site = Hospital(tmp_path)
    run = site.trainer.run

    async def lost(job, arguments, progress):
        found = await run(job, arguments, progress)
        return {"epsilons": [float("nan")] * len(found["epsilons"])} if job == "account" else found

    site.trainer.run = lost
    site.play(site.train(), until=[site.has(Declined)])
    assert site.ledger.debits == ()


def test_a_ledger_that_cannot_be_written_lets_nothing_be_trained(tmp_path):
    site = Hospital(tmp_path)

    def full(tools):
        tools.purse.ledger._file.append = _no_space

    site.play(site.train(), until=[site.has(Declined)], prepare=full)
    assert site.declined.cause is DeclineCause.STORAGE
    assert "round" not in site.trainer.jobs


def _no_space(_):
    raise OSError(28, "No space left on device")


# -- runs without noise ---------------------------------------------------------------------------------------------


def test_where_a_budget_is_kept_a_run_without_noise_is_noted_once_as_unaccounted(tmp_path):
    site = Hospital(tmp_path, policy_of(unprotected=True), sites=None)
    site.play(site.train(), site.train(SECOND, b"2"), until=[site.has(Trained), site.has(Trained, 2)])
    assert site.kinds == ["opened", "budget", "unaccounted"]
    assert site.ledger.unbounded
    assert site.trainer.jobs == ["open", "round", "round"]
    assert len(site.notes.of("privacy.unaccounted")) == 1


def test_where_a_budget_is_kept_a_run_without_noise_is_declined_unless_the_policy_allows_it(tmp_path):
    site = Hospital(tmp_path, sites=None)
    site.play(site.train(), until=[site.has(Declined)])
    assert "promises no differential privacy" in site.declined.problem
    assert site.notes.of("round.declined")[0][3]["clause"] == "policy privacy.epsilon"
    assert site.kinds == ["opened", "budget"]


def test_where_a_budget_was_kept_before_a_run_without_noise_is_noted_too(tmp_path):
    """Taking the budget out of the policy for one run hides nothing."""
    site = Hospital(tmp_path, sites=None)
    site.play(until=[])
    site.policy = policy_of(epsilon=None)
    site.play(site.train(), until=[site.has(Trained)])
    assert site.kinds == ["opened", "budget", "budget", "unaccounted"]


def test_a_ledger_that_the_audit_log_knows_of_is_not_begun_again(tmp_path):
    notes, loaded = Noted(), loaded_of(tmp_path)

    def opened():
        return Purse.open(tmp_path, loaded, notes, budget=None, clock=lambda: 0.0)

    opened().close()
    opened().close()
    assert [note[1] for note in notes.of("privacy.begun")] == [FILE.name]
    shutil.rmtree(tmp_path / FILE.parent)
    with pytest.raises(LedgerError, match=r"the audit log tells of a privacy ledger") as caught:
        opened()
    assert "put the newest copy of the whole folder back" in caught.value.remedy
    assert not (tmp_path / FILE).exists()


def test_without_a_budget_a_run_without_noise_leaves_the_ledger_alone(tmp_path):
    site = Hospital(tmp_path, policy_of(epsilon=None), sites=None)
    site.play(site.train(), until=[site.has(Trained)])
    assert site.kinds == ["opened"]


def test_a_floor_refuses_runs_without_noise(tmp_path):
    site = Hospital(tmp_path, policy_of(dp_floor=8.0), sites=None)
    site.play(site.train(), until=[site.has(Declined)])
    assert "promises no differential privacy" in site.declined.problem


# -- heads ----------------------------------------------------------------------------------------------------------


def test_reports_tell_our_head_and_the_coordinators_as_it_was_noted(tmp_path):
    site = Hospital(tmp_path)
    heads = [COORDINATOR.head(7), PEER.head(3)]
    site.play(site.train(heads=heads), until=[site.has(Trained)])
    told = site.script.heard[-1].heads
    assert [head.owner for head in told] == ["spiffe://test/site/a", COORDINATOR.owner]
    assert told[1] == heads[0]
    own = site.ledger.head()
    assert (told[0].sequence, told[0].hash, told[0].key) == (own.sequence, own.hash, own.key)
    assert {head.owner: head.sequence for head in site.ledger.witnessed} == {COORDINATOR.owner: 7, PEER.owner: 3}


def test_the_same_heads_are_noted_once(tmp_path):
    site = Hospital(tmp_path)
    heads = [COORDINATOR.head(7)]
    second = site.train(SECOND, b"2", heads)
    site.play(site.train(heads=heads), second, until=[site.has(Trained), site.has(Trained, 2)])
    assert site.kinds.count("witness") == 1


@pytest.mark.parametrize(
    ("later", "words"),
    [
        (PEER.head(5, "b"), "two entries 5"),
        (Party(Role.SITE, "b").head(6), "membership list"),
        (Party(Role.COORDINATOR, "other").head(6), "another coordinator"),
        (replace(PEER.head(6), signature=bytes(64)), "not what it should be"),
    ],
)
def test_a_peer_that_contradicts_itself_is_told_to_the_sites_people_and_the_round_goes_on(tmp_path, later, words):
    site = Hospital(tmp_path)
    first = site.train(heads=[PEER.head(5), COORDINATOR.head(1)])
    second = site.train(SECOND, b"2", [later, COORDINATOR.head(2)])
    site.play(first, second, until=[site.has(Trained), site.has(Trained, 2)])
    (note,) = site.notes.of("privacy.fork")
    assert words in note[3]["problem"]
    assert {head.owner: head.sequence for head in site.ledger.witnessed} == {PEER.owner: 5, COORDINATOR.owner: 2}


def test_an_older_head_that_is_passed_on_is_no_fork_and_the_coordinators_own_is_an_alarm(tmp_path):
    site = Hospital(tmp_path)
    first = site.train(heads=[PEER.head(5), COORDINATOR.head(3)])
    second = site.train(SECOND, b"2", [PEER.head(4), COORDINATOR.head(2)])
    site.play(first, second, until=[site.has(Trained), site.has(Trained, 2)])
    (note,) = site.notes.of("privacy.fork")
    assert note[1] == COORDINATOR.owner
    assert "shortened or restored" in note[3]["problem"]
    assert {head.owner: head.sequence for head in site.ledger.witnessed} == {PEER.owner: 5, COORDINATOR.owner: 3}


def test_of_many_coordinators_in_one_message_none_is_noted(tmp_path):
    site = Hospital(tmp_path)
    made_up = [Party(Role.COORDINATOR, f"x{number}").head(1) for number in range(40)]
    second = site.train(SECOND, b"2", [COORDINATOR.head(5)])
    site.play(
        site.train(heads=[*made_up, COORDINATOR.head(4)]), second, until=[site.has(Trained), site.has(Trained, 2)]
    )
    assert [head.owner for head in site.ledger.witnessed] == [COORDINATOR.owner]
    assert [len(report.heads) for report in site.script.heard if report.heads][-1] == 2


def test_what_is_made_up_of_others_hides_no_fork_of_a_listed_site(tmp_path):
    site = Hospital(tmp_path)
    made_up = [replace(Party(Role.SITE, f"x{number}").head(1), signature=bytes(64)) for number in range(150)]
    second = site.train(SECOND, b"2", [PEER.head(9, "b")])
    site.play(site.train(heads=[*made_up, PEER.head(9)]), second, until=[site.has(Trained), site.has(Trained, 2)])
    assert [note[1] for note in site.notes.of("privacy.fork")].count(PEER.owner) == 1
    assert len(site.notes.of("privacy.fork")) < 50


def test_a_coordinator_that_no_longer_shows_its_ledger_gets_nothing_private(tmp_path):
    site = Hospital(tmp_path)
    first, second = site.train(heads=[COORDINATOR.head(7)]), site.train(SECOND, b"2", [PEER.head(1)])
    site.play(first, second, until=[site.has(Trained), site.has(Declined)])
    assert "no longer does: nothing private is released" in site.declined.problem
    assert len(site.ledger.debits) == 1


def test_heads_of_owners_that_nobody_knows_are_not_kept(tmp_path):
    site = Hospital(tmp_path)
    made_up = [Party(Role.SITE, f"x{number}").head(1) for number in range(3)] + [Party(Role.ADMIN, "b").head(1)]
    site.play(site.train(heads=made_up), until=[site.has(Trained)])
    assert site.ledger.witnessed == ()
    assert site.notes.of("privacy.fork") == []


def test_heads_that_cannot_be_noted_for_a_full_disk_are_noted_later_and_are_no_fork(tmp_path):
    site, heads = Hospital(tmp_path, policy_of(epsilon=None), sites=None), [COORDINATOR.head(7)]

    def full(tools):
        write, left = tools.purse.ledger._file.append, [1]

        def append(line):
            if left[0]:
                left[0] -= 1
                raise OSError(28, "No space left on device")
            write(line)

        tools.purse.ledger._file.append = append

    site.play(site.train(heads=heads), until=[site.has(Trained)], prepare=full)
    assert site.kinds == ["opened", "witness"]
    assert site.notes.of("privacy.fork") == []


def _set_back(site):
    """Put a copy of the ledger back that lacks the last entries; return the head that others saw."""
    told = site.script.heard[-1].heads[0]
    path = site.folder / FILE
    close_ledgers()
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    return told


def test_a_ledger_that_was_set_back_releases_nothing_any_more(tmp_path):
    site = Hospital(tmp_path)
    site.play(site.train(), until=[site.has(Trained)])
    told = _set_back(site)
    site.play(site.train(SECOND, b"2", [told]), until=[site.has(Declined)])
    assert "lacks entries that others have seen" in site.declined.problem
    assert site.trainer.jobs.count("round") == 1
    (note,) = site.notes.of("privacy.fork")
    assert "put the newest copy back" in note[3]["problem"]
    assert site.notes.of("round.declined")[0][3]["clause"] == "SPEC 13.7"
    assert site.kinds == ["opened", "budget"]


def test_a_ledger_that_was_set_back_stays_so_after_a_restart_until_a_person_removes_the_note(tmp_path):
    site = Hospital(tmp_path)
    site.play(site.train(), until=[site.has(Trained)])
    whole = (tmp_path / FILE).read_bytes()
    told = _set_back(site)
    site.play(site.train(SECOND, b"2", [told]), until=[site.has(Declined)])
    site.policy = policy_of(epsilon=9.0)
    site.play(site.train(replace(SECOND, attempt=2), b"2"), until=[site.has(Declined, 2)])
    assert "lacks entries that others have seen" in site.declined.problem
    assert site.kinds == ["opened", "budget"], "nothing is written after an older copy"
    close_ledgers()
    (tmp_path / FILE).write_bytes(whole)
    (tmp_path / FILE).with_name(STOPPED).unlink()
    site.play(site.train(replace(SECOND, attempt=3), b"2"), until=[site.has(Trained, 2)])


def test_what_was_trained_before_the_ledger_was_found_to_be_set_back_does_not_leave_either(tmp_path):
    site = Hospital(tmp_path)
    later = site.train(replace(ROUND, attempt=2))
    site.play(site.train(), until=[site.has(Trained)])
    told = _set_back(site)
    heads = replace(later, task=replace(later.task, heads=(told,)), revision=later.revision + 1)
    site.play(heads, until=[site.has(Declined)])
    assert len(site.script.bodies(Trained)) == 1


def test_with_a_ledger_that_was_set_back_runs_without_noise_go_on(tmp_path):
    site = Hospital(tmp_path, policy_of(epsilon=None), sites=None)
    site.play(site.train(heads=[PEER.head(1)]), until=[site.has(Trained)])
    assert site.script.heard[-1].heads == ()  # a ledger without budget or debit has nothing to prove
    head = site.ledger.head()
    told = LedgerHead(owner=head.owner, key=head.key, sequence=head.sequence, hash=head.hash, signature=head.signature)
    path = tmp_path / FILE
    close_ledgers()
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    site.play(site.train(SECOND, b"2", [told]), until=[site.has(Trained, 2)])
    assert len(site.notes.of("privacy.fork")) == 1


def test_our_own_head_comes_back_as_it_was_told(tmp_path):
    site = Hospital(tmp_path)
    site.play(site.train(), until=[site.has(Trained)])
    told = site.script.heard[-1].heads[0]
    site.play(site.train(SECOND, b"2", [told]), until=[site.has(Trained, 2)])
    assert site.notes.of("privacy.fork") == []
    assert isinstance(site.train().task, Train)
