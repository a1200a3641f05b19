"""For equal survivors a simulation, sums in clear and sums under masks are the same integers, and so the same model.

Whoever is lost at whichever step, and with partly personal decoders. `three_sums.World.round` compares; what is fixed
here is who was lost, what was closed for it, and that the rounds were worth comparing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.federation.three_sums import FOURTEEN, NINE, STEPS, Lost, Owned, World

TOO_FEW = "modality/c"  # has two owners


@pytest.fixture(autouse=True)
def _no_disk_is_that_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


def play(folder: Path, rounds: Sequence[Lost], *, dropouts: int, own: Owned = NINE) -> World:
    """Play rounds, each with the sites that are lost in it; in the end decoders are partly personal."""
    world = World(folder, own, dropouts)
    for lost in rounds:
        world.round(lost)
    assert world.federation.server.round_number == len(rounds)
    assert 0.1 < world.personal_share < 0.9
    assert world.partial, "some slots are to be summed over some of a segment's sites"
    return world


def only_too_few(rounds: int) -> dict[int, set[str]]:
    """Return the closed segments of rounds in which nothing is closed but what has too few owners."""
    return {number: {TOO_FEW} for number in range(1, rounds + 1)}


def test_with_every_site_in_every_round_all_are_the_same(tmp_path: Path) -> None:
    world = play(tmp_path, [{}] * 6, dropouts=0)
    assert world.closed == only_too_few(6)
    assert set(world.survivors.values()) == {world.roster}
    assert world.different == []


@pytest.mark.parametrize("step", STEPS)
def test_whoever_is_lost_at_a_step_all_are_the_same_over_the_survivors(tmp_path: Path, step: str) -> None:
    lost = [(), ("s8",), ("s5", "s6"), ("s1",)]
    world = play(tmp_path, [dict.fromkeys(sites, step) for sites in lost], dropouts=2)
    assert world.closed == only_too_few(4)
    out = lost if step in ("advertise", "share", "mask") else [()] * 4  # whose input was in is in the sum
    assert world.survivors == {n: tuple(sorted(set(NINE) - set(sites))) for n, sites in enumerate(out, 1)}
    assert world.different == []


def test_with_sites_lost_at_every_step_of_one_round_all_are_the_same(tmp_path: Path) -> None:
    lost = dict(zip(("s14", "s13", "s5", "s12", "s1"), STEPS, strict=True))
    world = play(tmp_path, [{}, {}, {}, lost, {}], dropouts=4, own=FOURTEEN)
    assert world.closed == only_too_few(5)
    assert world.survivors[4] == tuple(sorted(set(FOURTEEN) - {"s14", "s13", "s5"}))
    assert world.different == []


def test_tolerated_dropouts_keep_a_segment_open_when_sites_are_lost(tmp_path: Path) -> None:
    world = play(tmp_path, [{}, {}, {}, {"s5": "mask"}, {}, {"s5": "share"}], dropouts=1)
    assert world.closed == only_too_few(6)
    assert world.different == []


def test_without_tolerance_a_thin_slot_closes_its_segment_which_the_server_leaves_alone(tmp_path: Path) -> None:
    """As a simulation leaves a segment of too few sites alone; in clear the rest of it would have been applied."""
    world = play(tmp_path, [{}, {}, {}, {"s5": "mask"}, {}, {}], dropouts=0)
    assert world.closed == {**only_too_few(6), 4: {"modality/b", TOO_FEW}}
    assert "a filter with 2 contributors left" in world.reasons[4]["modality/b"]
    assert world.different == [4]
    assert (world.federation.server.counts["modality/b"] > 0).any()  # announced anew, and open again


@pytest.mark.parametrize(
    ("rounds", "lost", "reason"),
    [
        (4, dict.fromkeys(("s2", "s7", "s9"), "unmask"), "6 shares, 7 are needed"),
        (7, {"s8": "mask"}, "segment common has a filter with 2 contributors left"),
        (7, {"s8": "share"}, "segment common has a filter with 2 contributors left"),
    ],
)
def test_after_a_sum_that_is_not_opened_all_are_the_same_again(
    tmp_path: Path, rounds: int, lost: Lost, reason: str
) -> None:
    world = play(tmp_path, [*[{}] * (rounds - 1), lost, {}, {}], dropouts=0)
    assert list(world.failed) == [rounds]
    assert reason in world.failed[rounds]
    closed = only_too_few(rounds + 2)
    del closed[rounds]
    assert world.closed == closed
    assert world.different == []
