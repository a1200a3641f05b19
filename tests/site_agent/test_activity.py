"""What a site tells of its progress: enough for the operator's view, and no number of patients (PROTOCOL 3.7, 8.6)."""

from __future__ import annotations

import asyncio
from itertools import groupby

import pytest

from protos.terms import ActivityKind
from site_agent.hands import Hands
from site_agent.session import DoTrain, Download
from tests.site_agent.agent_at_hand import IdleTrainer
from tests.site_agent.test_driver import LAYOUT, MODALITIES, ROUND, Script, tools_of


class CountingTrainer(IdleTrainer):
    """Reports as a trainer does: cases that are read, steps, and at last how many patients are validated on.

    Args:
        cases: In the cohort.
        see: Called after each report.
    """

    def __init__(self, cases, see):
        super().__init__(LAYOUT, MODALITIES)
        self.cases, self.see = cases, see

    async def run(self, job, arguments, progress):
        if job == "round":
            for phase, steps in (("reading", self.cases), ("training", 3 * self.cases)):
                for done in range(1, steps + 1):
                    progress(phase, done, steps)
                    self.see()
            progress("validating", 0, self.cases // 4)
            self.see()
        return await super().run(job, arguments, lambda *_: None)


def told(folder, cases):
    """Return all that could be told in a round in which a site with so many cases trains, each thing once in a row."""
    folder.mkdir()
    script, seen, shown = Script(), [], []

    def see():
        seen.append(hands.activity)
        shown.append((tools.status.now.done, tools.status.now.total))

    tools = tools_of(folder, script, CountingTrainer(cases, see))
    hands = Hands(tools, busy=see)
    instruction = script.train()

    async def whole():
        await hands.facts(instruction)
        for ref in (instruction.run_spec, *instruction.task.artefacts[:1]):
            await hands.perform(Download(ref=ref))
        await hands.perform(DoTrain(round=ROUND, spec=instruction.run_spec, task=instruction.task))

    asyncio.run(whole())
    return [activity for activity, _ in groupby(seen)], shown


def test_what_is_told_of_a_training_is_the_same_whatever_the_cohort(tmp_path):
    few, _ = told(tmp_path / "few", 12)
    many, shown = told(tmp_path / "many", 400)
    assert few == many
    assert {activity.total for activity in many if activity.kind is ActivityKind.TRAINING} == {10}
    assert [activity.done for activity in many if activity.kind is ActivityKind.TRAINING] == [*range(11), *range(11)]
    assert (3 * 400, 3 * 400) in shown, "the site's own people see exact numbers"


@pytest.mark.parametrize("cases", [1, 2, 3])
def test_fewer_steps_than_tenths_are_not_counted_by_them(tmp_path, cases):
    found, _ = told(tmp_path / "few", cases)
    assert {activity.done for activity in found if activity.kind is ActivityKind.TRAINING} == {0, 10}


def test_what_is_told_of_a_validation_has_no_number(tmp_path):
    found, _ = told(tmp_path / "some", 40)
    validating = [activity for activity in found if activity.kind is ActivityKind.VALIDATING]
    assert validating
    assert {(activity.done, activity.total) for activity in validating} == {(0, 0)}


def test_bytes_of_a_transfer_are_told(tmp_path):
    found, _ = told(tmp_path / "some", 40)
    assert any(activity.kind is ActivityKind.DOWNLOADING and activity.total > 0 for activity in found)
