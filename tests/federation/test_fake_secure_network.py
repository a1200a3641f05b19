"""Secure rounds with both sessions and the sites' own files on a fake network: kills, faults, sites that are lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from coordinator.state import RunStatus
from protos.terms import Phase
from tests.federation.fake_network import COORDINATOR, completed, ledgers_in_memory
from tests.federation.fake_secure_network import SECURE, SecureWorld
from tests.federation.test_fake_network import OPERATIONS, disturb


@pytest.fixture(autouse=True)
def _no_disk_is_that_slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("os.fsync", lambda _: None)
    with ledgers_in_memory():
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> SecureWorld:
    with ledgers_in_memory():
        return play(tmp_path_factory.mktemp("undisturbed"), {})


def play(folder: Path, victims: dict[str, list[int]]) -> SecureWorld:
    """Play a run in which parties are killed after so many of their steps."""
    world = SecureWorld(folder)
    points = {name: list(at) for name, at in victims.items()}
    for _ in range(3_000):
        if world.state.status.terminal and all(world._left(site) for site in world.sites):
            return world
        world.cycle()
        for name, left in points.items():
            if left and world.parties[name].taken >= left[0]:
                left.pop(0)
                world.kill(name)
    raise AssertionError(f"the run does not end: {world.state}")


def assert_whole(world: SecureWorld) -> None:
    """Everybody took part in every round at the first attempt, and every sum was opened and right."""
    world.check()
    assert completed(world.state), world.state
    assert sorted((opened.round_number, opened.attempt) for opened in world.opened) == [(1, 1), (2, 1)]
    assert set(world.opened.values()) == {tuple(world.sites)}


def test_a_secure_run_opens_the_right_sums_and_destroys_every_key(undisturbed: SecureWorld) -> None:
    assert_whole(undisturbed)
    for site in undisturbed.cohort.sites.values():
        assert list(site.steps.keeper.attempts()) == []
        assert len(site.steps.spent.marks()) == 2


@pytest.mark.parametrize("victim", [COORDINATOR, "a", "d"])
def test_killed_at_a_step_the_run_ends_as_the_undisturbed_one(
    tmp_path: Path, undisturbed: SecureWorld, victim: str
) -> None:
    steps = undisturbed.parties[victim].taken
    for point in range(7, steps, steps // 5):
        assert_whole(play(tmp_path / str(point), {victim: [point]}))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [COORDINATOR, "a"])
def test_killed_twice_the_run_ends_as_the_undisturbed_one(
    tmp_path: Path, undisturbed: SecureWorld, victim: str
) -> None:
    for point in range(1, undisturbed.parties[victim].taken + 1, 3):
        assert_whole(play(tmp_path / str(point), {victim: [point, point + 7]}))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_whatever_the_network_does_sums_are_right_and_nobody_says_two_things(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int]]
) -> None:
    world = SecureWorld(tmp_path_factory.mktemp("world"))
    disturb(world, operations)
    state = world.settle()
    world.check()
    assert state.status in (RunStatus.COMPLETED, RunStatus.FAILED)


def until(world: SecureWorld, phase: Phase) -> None:
    """Go on without faults until a round is in a phase."""
    for _ in range(2_000):
        if world.state.round is not None and world.state.round.phase is phase:
            return
        world.cycle()
    raise AssertionError(f"phase {phase.name} is never reached")


@pytest.mark.parametrize(
    "phase", [Phase.TRAINING, Phase.ADVERTISE, Phase.SHARE, Phase.MASKED, Phase.CONSISTENCY, Phase.UNMASK]
)
def test_without_a_site_that_never_returns_the_others_open_their_sum(tmp_path: Path, phase: Phase) -> None:
    world = SecureWorld(tmp_path)
    until(world, phase)
    world.kill("d")
    world.parties["d"].gone = True
    state = world.settle()
    world.check()
    assert state.status is RunStatus.COMPLETED
    first = world.opened[min(world.opened)]
    assert first in (("a", "b", "c"), ("a", "b", "c", "d"))
    assert first == ("a", "b", "c", "d") if phase in (Phase.CONSISTENCY, Phase.UNMASK) else set("abc") <= set(first)
    assert world.opened[max(world.opened)] == ("a", "b", "c")


def test_a_round_that_fails_after_masking_is_not_tried_again_and_the_next_one_has_a_new_vector(tmp_path: Path) -> None:
    world = SecureWorld(tmp_path, policy=SECURE.model_copy(update={"quorum": 3.0}))
    until(world, Phase.CONSISTENCY)
    for site in "cd":
        world.kill(site)
        world.parties[site].away = 400
    for _ in range(6_000):
        if world.state.round is not None and world.state.round.id.round_number == 2:
            break
        world.cycle()
    ended = [event.record for event in world.ended.values() if event.record.id.round_number == 1]
    assert [(record.id.attempt, record.sum) for record in ended] == [(1, None)]
    state = world.settle()
    world.check()
    assert state.status is RunStatus.COMPLETED
    for site in world.cohort.sites.values():
        hashes = [mark.sha256 for mark in site.steps.spent.marks()]
        assert len(set(hashes)) == len(hashes)
