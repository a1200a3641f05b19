"""Both sessions on a fake network: killed at every step, and under schedules that drop, repeat, reorder and delay."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.state import Publication, RunState, RunStatus
from tests.federation.fake_network import COORDINATOR, POLICY, World, completed, ledgers_in_memory


def play(victims: dict[str, list[int]] | None = None, sites: str = "ab") -> World:
    """Play a run in which parties are killed after so many of their steps."""
    world = World(sites)
    points = {name: list(at) for name, at in (victims or {}).items()}
    with ledgers_in_memory():
        for _ in range(3_000):
            if world.state.status.terminal and all(world._left(site) for site in sites):
                return world
            world.cycle()
            for name, left in points.items():
                if left and world.parties[name].taken >= left[0]:
                    left.pop(0)
                    world.kill(name)
    raise AssertionError(f"the run does not end: {world.state}")


@pytest.fixture(scope="module")
def undisturbed() -> World:
    world = play()
    assert completed(world.state)
    world.check()
    return world


def assert_same(world: World, undisturbed: World) -> None:
    """Everybody took part in every round, so everything is as if nothing had happened."""
    world.check()
    assert completed(world.state)
    assert published(world.state) == published(undisturbed.state)
    for number in (1, 2):
        records = {e.record.id: e.record for e in world.ended.values() if e.record.id.round_number == number}
        (record,) = records.values()
        assert (record.id.attempt, record.missing) == (1, ())
    assert world.announced == undisturbed.announced
    assert set(world.totals) == set(undisturbed.totals)


def published(state: RunState) -> Publication:
    assert state.published is not None
    return state.published


@pytest.mark.parametrize("victim", [COORDINATOR, "a", "b"])
def test_killed_at_any_step_the_run_ends_as_the_undisturbed_one(undisturbed: World, victim: str) -> None:
    steps = undisturbed.parties[victim].taken
    assert steps > 50
    for point in range(1, steps + 1):
        assert_same(play({victim: [point]}), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [COORDINATOR, "a"])
def test_killed_twice_at_any_two_steps_the_run_ends_as_the_undisturbed_one(undisturbed: World, victim: str) -> None:
    steps = undisturbed.parties[victim].taken
    for point in range(1, steps + 1, 3):
        for gap in (1, 2, 5, 13, 40):
            assert_same(play({victim: [point, point + gap]}), undisturbed)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([COORDINATOR, "a", "b"]), st.lists(st.integers(1, 150), max_size=3).map(sorted), min_size=2
    )
)
def test_killed_together_at_any_steps_the_run_ends_as_the_undisturbed_one(victims: dict[str, list[int]]) -> None:
    assert_same(play(victims), play())


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["advance"] * 12
            + ["cycle"] * 4
            + ["deliver"] * 4
            + ["drop", "duplicate", "duplicate", "kill"]
            + ["fail", "wait"]
        ),
        st.integers(0, 11),
    ),
    min_size=40,
    max_size=400,
)


def disturb(world: World, operations: list[tuple[str, int]]) -> None:
    names = list(world.parties)
    for name, number in operations:
        match name:
            case "advance":
                world.advance(names[number % len(names)])
            case "kill":
                world.kill(names[number % len(names)])
            case "wait":
                world.now += 5 * number
            case "fail":
                world.failures = min(2, world.failures + 1)
            case "cycle":
                world.cycle()
            case _:
                getattr(world, name)(number)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(OPERATIONS)
def test_whatever_the_network_does_the_run_ends_and_sums_are_what_they_say(operations: list[tuple[str, int]]) -> None:
    world = World("abc")
    with ledgers_in_memory():
        disturb(world, operations)
        state = world.settle()
    world.check()
    assert state.status in (RunStatus.COMPLETED, RunStatus.FAILED)
    assert set(state.finished) == set("abc")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(OPERATIONS, st.booleans())
def test_with_a_site_that_never_returns_the_run_ends_all_the_same(
    operations: list[tuple[str, int]],
    enough: bool,  # noqa: FBT001
) -> None:
    world = World("abc", policy=POLICY if enough else POLICY.model_copy(update={"quorum": 3.0}))
    with ledgers_in_memory():
        disturb(world, operations)
        world.kill("c")
        world.parties["c"].gone = True
        state = world.settle()
    world.check()
    assert state.status in (RunStatus.COMPLETED, RunStatus.FAILED)
    if state.status is RunStatus.FAILED:
        assert "c: " in state.reason or "scheduler" in state.reason, state.reason
    assert {"a", "b"} <= set(state.finished)
