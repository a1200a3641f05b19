"""A whole agent in a secure round, started anew for every step; the other sites and the coordinator are functions."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest

from fedmepd.artefacts import contribution_length, segment_length
from protos.terms import (
    Advertised,
    BroadcastSegment,
    Confirmed,
    DeclineCause,
    Declined,
    Finish,
    Finished,
    Instruction,
    Masked,
    Prepared,
    RoundId,
    Shared,
    Submit,
    Submitted,
    Train,
    Trained,
    Unmasked,
    Wait,
)
from site_agent.policy_file import Policy
from site_agent.secagg.keeper import Keeper
from site_agent.workspace import Ending, Workspace
from tests.site_agent.agent_at_hand import IdleTrainer, build_agent, until_true
from tests.site_agent.secure_cohort import NOW, OWN, ROUND, Cohort, Played, sum_of
from tests.site_agent.test_driver import Script, tools_of
from tests.site_agent.test_transfers import ref_of

THREE = Policy.model_validate({"aggregation": {"minimum_cohort": 3}})
OTHERS = tuple(site for site in OWN if site != "a")
LIMIT_S = 30


def artefact(segment):
    """Return a broadcast segment in which five sites announced themselves for every slot."""
    floats = np.zeros(segment.plain_values + segment.filter_values, "<f4")
    content = floats.tobytes() + np.full(segment.slots, 5, "<u4").tobytes()
    assert len(content) == segment_length(segment)
    return content


class Hospital:
    """Site a with a disk, and what the rest of the consortium says to it.

    Args:
        folder: Its disk.
        policy: Its own.
        own: Modalities by site.
    """

    def __init__(self, folder, policy=THREE, own=OWN):
        self.folder, self.policy = folder, policy
        layout = Cohort(folder / "layout").layout
        self.cohort = Cohort(folder / "others", own=own, least_open={one.name: 5 for one in layout.segments})
        self.script, self.trainer = Script(), IdleTrainer(layout, own["a"])
        content = {one.name: artefact(one) for one in layout.segments}
        self.cohort.broadcast = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
        spec = json.dumps(self.cohort.spec.to_dict()).encode()
        self.spec, self.cohort.spec_sha256 = ref_of(spec), ref_of(spec).sha256
        for data in (spec, *content.values()):
            self.script.blobs[ref_of(data).sha256] = data
        owners = self.cohort.spec.owners(layout)
        segments = tuple(
            BroadcastSegment(name=s.name, artefact=ref_of(content[s.name]), owners=owners[s.name])
            for s in layout.for_member(own["a"])
        )
        self.train = Train(segments=segments, anchors=None, start=None, samples=1.0)
        self.cohort.samples = self.train.samples
        self.played = Played(self.cohort)
        self.notes = []

    def identity(self):
        facts = SimpleNamespace(renew_after=datetime(2999, 1, 1, tzinfo=UTC))
        who = SimpleNamespace(id="a", consortium="test")
        loaded = SimpleNamespace(facts=facts, identity=who, identity_key=self.cohort.sites["a"].key)
        return SimpleNamespace(loaded=loaded)

    def tools(self):
        standing = SimpleNamespace(check=lambda *_, **__: self.cohort.listed)
        tools = tools_of(self.folder / "a", self.script, self.trainer, standing, self.policy)
        tools.training.config = tools.config.model_copy(
            update={"cohort": tools.config.cohort.model_copy(update={"modalities": OWN["a"]})}
        )
        return replace(tools, identity=self.identity(), clock=NOW.timestamp)

    def say(self, task, round_id=ROUND):
        revision = abs(hash((task, round_id))) % (1 << 60) + 1
        self.script.say(Instruction(revision=revision, round=round_id, run_spec=self.spec, seconds_left=0.0, task=task))

    def until(self, kind, task, round_id=ROUND):
        """Start an agent, tell it the task, end it when it has made a report of a kind; return the last such."""
        before = len(self.script.bodies(kind))

        async def whole():
            self.script.changed = asyncio.Event()
            tools, stop = self.tools(), asyncio.Event()
            self.say(task, round_id)
            running = asyncio.create_task(build_agent(tools, until_finished=False).run(stop))
            try:
                async with asyncio.timeout(LIMIT_S):
                    await until_true(lambda: len(self.script.bodies(kind)) > before)
                    await until_true(lambda: tools.ledger.pending is None and bool(tools.status.now.waiting))
            finally:
                stop.set()
                await running
                self.notes += tools.notes.records
            return tools

        self.last_tools = asyncio.run(whole())
        return self.script.bodies(kind)[-1]

    @property
    def keeper(self):
        return Keeper(self.folder / "a")

    def wait(self, run_spec):
        """Start an agent that is told to wait, without a round, and end it when it waits."""

        async def whole():
            self.script.changed = asyncio.Event()
            tools, stop = self.tools(), asyncio.Event()
            self.script.say(
                Instruction(revision=7, round=None, run_spec=run_spec, seconds_left=0.0, task=Wait(reason="wait"))
            )
            running = asyncio.create_task(build_agent(tools, until_finished=False).run(stop))
            try:
                async with asyncio.timeout(LIMIT_S):
                    await until_true(lambda: tools.status.now.waiting == "wait")
            finally:
                stop.set()
                await running

        asyncio.run(whole())

    def play(self):
        """Play a round in which everybody takes part."""
        played = self.played
        self.until(Prepared, self.train)
        played.advertise(OTHERS).advertised["a"] = self.until(Advertised, played.task)
        played.share(OTHERS).shared["a"] = self.until(Shared, played.share_task)
        played.mask(OTHERS)
        masked = self.until(Submitted, played.mask_task("a"))
        played.masked["a"] = self.script.uploaded
        assert masked.vector == self.script.bodies(Masked)[0].manifest.vector == ref_of(self.script.uploaded)
        played.confirm(OTHERS).confirmed["a"] = self.until(Confirmed, played.confirm_task)
        played.unmask(OTHERS).unmasked["a"] = self.until(Unmasked, played.unmask_task)


def test_an_agent_that_is_started_anew_for_every_step_takes_part_and_the_sum_is_right(tmp_path):
    hospital = Hospital(tmp_path)
    hospital.play()
    clear = np.full(contribution_length(hospital.cohort.layout, OWN["a"]) // 4, 1, np.uint32)
    for name, (sites, total) in hospital.played.sums().items():
        vectors = {site: clear if site == "a" else hospital.cohort.vector(site) for site in sites}
        assert np.array_equal(total, sum_of(hospital.cohort, name, vectors)), name
        assert ("a" in sites) is (name == "common" or name.removeprefix("modality/") in OWN["a"])
    assert hospital.script.bodies(Trained) == []
    assert hospital.script.bodies(Declined) == []
    assert hospital.trainer.jobs == ["open", "round"]
    assert list(hospital.last_tools.steps.keeper.attempts()) == [], "what opened shares is destroyed with the last step"
    steps = [record[0] for record in hospital.notes if record[0].startswith(("secagg", "round"))]
    assert steps == [
        "round.accepted",
        "round.prepared",
        "secagg.advertised",
        "secagg.shared",
        "secagg.masked",
        "round.submitted",
        "secagg.confirmed",
        "secagg.unmasked",
        "secagg.destroyed",
    ]


def test_the_clear_contribution_and_its_hash_never_reach_the_wire(tmp_path):
    hospital = Hospital(tmp_path)
    hospital.play()
    clear = np.full(contribution_length(hospital.cohort.layout, OWN["a"]) // 4, 1, "<u4").tobytes()
    sha256 = hashlib.sha256(clear).hexdigest()
    assert sha256 in json.dumps([mark.sha256 for mark in hospital.last_tools.steps.spent.marks()])
    assert sha256 not in repr(hospital.script.heard)
    assert hospital.script.uploaded != clear


def test_a_secure_run_that_asks_for_an_update_in_clear_gets_none(tmp_path):
    hospital = Hospital(tmp_path, Policy.model_validate({"aggregation": {"minimum_cohort": 3, "plain": True}}))
    hospital.until(Prepared, hospital.train)
    declined = hospital.until(Declined, Submit(roster=tuple(OWN), context="0" * 64))
    assert declined.cause is DeclineCause.POLICY
    assert hospital.script.uploaded == b""


def test_another_task_in_an_attempt_that_was_answered_is_declined_and_its_secrets_are_destroyed(tmp_path):
    hospital = Hospital(tmp_path)
    played = hospital.played
    hospital.until(Prepared, hospital.train)
    played.advertise(OTHERS).advertised["a"] = hospital.until(Advertised, played.task)
    other = hospital.cohort.advertise(ROUND, roster=played.task.roster[:4])
    declined = hospital.until(Declined, other)
    assert "was about something else before" in declined.problem
    assert list(hospital.last_tools.steps.keeper.attempts()) == []
    refusals = [record for record in hospital.notes if record[0] == "round.declined"]
    assert [record[3]["clause"] for record in refusals] == ["SPEC 11.4"]


@pytest.mark.parametrize("what", ["round", "finish"])
def test_secrets_of_a_round_that_is_over_are_destroyed(tmp_path, what):
    hospital = Hospital(tmp_path)
    hospital.until(Prepared, hospital.train)
    hospital.until(Advertised, hospital.played.task)
    assert list(hospital.last_tools.steps.keeper.attempts()) == [ROUND]
    if what == "finish":
        hospital.until(Finished, Finish(completed=False, reason="aborted", last=None))
    else:
        hospital.until(Prepared, hospital.train, RoundId(run="r", round_number=1, attempt=2))
    assert list(hospital.last_tools.steps.keeper.attempts()) == []


def advertised(tmp_path):
    """Return a hospital that holds the secrets of a round."""
    hospital = Hospital(tmp_path)
    hospital.until(Prepared, hospital.train)
    hospital.until(Advertised, hospital.played.task)
    assert list(hospital.keeper.attempts()) == [ROUND]
    return hospital


def test_secrets_are_destroyed_when_there_is_no_run_for_the_site_any_more(tmp_path):
    hospital = advertised(tmp_path)
    hospital.wait(run_spec=None)
    assert list(hospital.keeper.attempts()) == []
    assert list((tmp_path / "a" / "secagg").iterdir()) == [], "nor an empty folder"


def test_secrets_are_destroyed_when_another_run_is_being_prepared(tmp_path):
    hospital = advertised(tmp_path)
    hospital.wait(run_spec=ref_of(b"another"))
    assert list(hospital.keeper.attempts()) == []


def test_secrets_are_kept_while_their_run_waits_between_rounds(tmp_path):
    hospital = advertised(tmp_path)
    hospital.wait(run_spec=hospital.spec)
    assert list(hospital.keeper.attempts()) == [ROUND]


@pytest.mark.parametrize(("days", "kept"), [(29, [ROUND]), (31, [])])
def test_secrets_of_long_ago_are_destroyed_at_the_start_whatever_the_coordinator_says(tmp_path, days, kept):
    hospital = advertised(tmp_path)
    long_ago = time.time() - days * 86400
    os.utime(tmp_path / "a" / "secagg" / "r" / "000001-0001", (long_ago, long_ago))
    hospital.wait(run_spec=hospital.spec)
    assert list(hospital.keeper.attempts()) == kept


def test_secrets_of_a_run_that_ended_here_are_destroyed_at_the_start(tmp_path):
    hospital = advertised(tmp_path)
    Workspace(tmp_path / "a", "r").keep_ending(Ending(completed=True, failure="", run_dir="x"))
    hospital.wait(run_spec=hospital.spec)
    assert list(hospital.keeper.attempts()) == []


def test_a_newer_membership_list_is_fetched_when_a_round_goes_by_it(tmp_path):
    hospital = Hospital(tmp_path)
    hospital.until(Prepared, hospital.train)
    listed = hospital.cohort.list_of(2)
    task = hospital.cohort.advertise(ROUND, membership_version=2, membership_digest=listed.digest)
    old, hospital.cohort.listed = hospital.cohort.listed, listed
    assert old.version == 1
    hospital.until(Advertised, task)


def test_a_list_that_nobody_has_is_declined_instead_of_being_looked_for_again_and_again(tmp_path):
    hospital = Hospital(tmp_path)
    hospital.until(Prepared, hospital.train)
    declined = hospital.until(Declined, hospital.cohort.advertise(ROUND, membership_version=9))
    assert "the newest one here is 1" in declined.problem


def test_counts_that_the_coordinator_inflates_are_declined(tmp_path):
    hospital = Hospital(tmp_path)
    hospital.until(Prepared, hospital.train)
    segments = tuple(replace(one, least_open=6) for one in hospital.played.task.segments)
    declined = hospital.until(Declined, hospital.cohort.advertise(ROUND, segments=segments))
    assert "its counts say 5" in declined.problem


def test_remedies_for_the_sites_people_stay_at_the_site(tmp_path):
    hospital = Hospital(tmp_path)
    played = hospital.played
    hospital.until(Prepared, hospital.train)
    played.advertise(OTHERS).advertised["a"] = hospital.until(Advertised, played.task)
    played.advertised["b"] = replace(played.advertised["b"], signature=bytes(64))
    declined = hospital.until(Declined, played.share_task)
    assert declined.problem == "the keys of b are not signed by its identity key over this round"
    assert "tell the consortium" in hospital.last_tools.status.now.last_error


def test_by_default_three_sites_are_too_few_for_filters(tmp_path):
    hospital = Hospital(tmp_path, Policy())
    declined = hospital.until(Declined, hospital.train)
    assert "min_contributors" in declined.problem
    assert hospital.trainer.jobs == []
