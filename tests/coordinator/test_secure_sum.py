"""Sums under masks: the same integers as in clear, what is no sum is named, memory that does not grow with sites."""

from __future__ import annotations

import hashlib
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coordinator.clear_sum import ClearSummation, UnfitInputError
from coordinator.ports import Input
from coordinator.secure_sum import SecureSummation, WrongSumError
from fedmepd.aggregation import parts_of, quantisation, vector_length
from fedmepd.layout import Layout, build_layout
from security.masking import Masker, Pad
from security.secagg import Opening

SHAPES = {
    "encoders.flair.a.weight": (300, 1000),
    "encoders.t1.a.weight": (300, 1000),
    "decoder.b.weight": (4, 3, 3, 3, 3),
    "decoder.b.bias": (4,),
}
OWN = {"a": ("flair",), "b": ("flair", "t1"), "c": ("t1",)}
FORMATS = quantisation(sites=3)


@pytest.fixture
def layout() -> Layout:
    return build_layout(SHAPES, ("flair", "t1"), encoders=True, decoder=True)


def pad_of(site: str, segment: str) -> Pad:
    return Pad(key=hashlib.sha256(f"{site} {segment}".encode()).digest(), added=True)


def contribution(layout: Layout, site: str, own: tuple[str, ...]) -> np.ndarray:
    random, words = np.random.default_rng([*site.encode()]), []
    for segment in layout.for_member(own):
        for length, form in parts_of(segment, FORMATS):
            most = int(form.clip * form.scale)
            words.append(random.integers(-most, most, length, endpoint=True).astype(np.int32))
        words[-1][0] = int(FORMATS.scalar.scale)
    return np.concatenate(words).view(np.uint32)


def write(layout: Layout, folder: Path, changes: dict[str, tuple[int, int]] | None = None) -> list[Input]:
    """Write every site's contribution in clear and masked; `changes` adds to a word of a site before it is masked."""
    inputs = []
    for site, own in OWN.items():
        words = contribution(layout, site, own)
        if site in (changes or {}):
            place, difference = (changes or {})[site]
            words[[place]] += np.uint32(difference % 2**32)
        (folder / f"{site}.clear").write_bytes(words.astype("<u4").tobytes())
        start = 0
        for segment in layout.for_member(own):
            count = vector_length(segment)
            Masker([pad_of(site, segment.name)]).apply(words[start : start + count])
            start += count
        (folder / site).write_bytes(words.astype("<u4").tobytes())
        inputs.append(Input(site=site, modalities=own, path=folder / site))
    return inputs


def opening(layout: Layout, closed: tuple[str, ...] = ()) -> Opening:
    members = {
        segment.name: tuple(site for site, own in OWN.items() if segment in layout.for_member(own))
        for segment in layout.segments
        if segment.name not in closed
    }
    pads = {name: tuple(pad_of(site, name).removed for site in sites) for name, sites in members.items()}
    return Opening(contributors=members, pads=pads, closed=dict.fromkeys(closed, "too few sites"))


def clear(inputs: list[Input]) -> list[Input]:
    return [
        Input(site=one.site, modalities=one.modalities, path=one.path.with_name(f"{one.site}.clear")) for one in inputs
    ]


def test_the_sum_is_that_in_clear_in_any_order(layout: Layout, tmp_path: Path) -> None:
    inputs = write(layout, tmp_path)
    expected = ClearSummation().sum(layout, FORMATS, clear(inputs), tmp_path / "clear")
    for order in (inputs, inputs[::-1]):
        found = SecureSummation(opening(layout)).sum(layout, FORMATS, order, tmp_path / "sum")
        assert found == expected
        assert (tmp_path / "sum").read_bytes() == (tmp_path / "clear").read_bytes()


def test_a_closed_segment_is_zeros_without_contributors(layout: Layout, tmp_path: Path) -> None:
    inputs = write(layout, tmp_path)
    found = SecureSummation(opening(layout, ("modality/flair",))).sum(layout, FORMATS, inputs, tmp_path / "sum")
    assert found == {"modality/t1": 2, "common": 3}
    ClearSummation().sum(layout, FORMATS, clear(inputs), tmp_path / "clear")
    words, wanted = (np.fromfile(tmp_path / name, "<u4") for name in ("sum", "clear"))
    flair = vector_length(layout.segments[0])
    assert layout.segments[0].name == "modality/flair"
    assert not words[:flair].any()
    assert np.array_equal(words[flair:], wanted[flair:])


def test_a_sum_that_does_not_count_its_sites_is_discarded_by_segment(layout: Layout, tmp_path: Path) -> None:
    inputs = write(layout, tmp_path, {"c": (-4, 1)})  # the first scalar of the common segment
    with pytest.raises(WrongSumError, match=r"segment common says 3\.\d+ sites, 3 are in it"):
        SecureSummation(opening(layout)).sum(layout, FORMATS, inputs, tmp_path / "sum")
    assert not (tmp_path / "sum").exists()


@pytest.mark.parametrize("value", [2**31 - 1, -(2**31)])
def test_a_value_that_so_many_sites_cannot_reach_is_named_by_segment(
    layout: Layout, tmp_path: Path, value: int
) -> None:
    place = 200_000
    total = sum(int(contribution(layout, site, OWN[site])[place]) for site in "ab")
    inputs = write(layout, tmp_path, {"a": (place, value - total)})
    summation = SecureSummation(opening(layout))
    found = summation.sum(layout, FORMATS, inputs, tmp_path / "sum")
    assert found == {"modality/t1": 2, "common": 3}, "one modality's wrong sum costs that modality only"
    assert summation.closed == {
        "modality/flair": "the sum of segment modality/flair holds a value that 2 sites cannot reach"
    }
    ClearSummation().sum(layout, FORMATS, clear(write(layout, tmp_path)), tmp_path / "clear")
    words, wanted = (np.fromfile(tmp_path / name, "<u4") for name in ("sum", "clear"))
    flair = vector_length(layout.segments[0])
    assert not words[:flair].any()
    assert np.array_equal(words[flair:], wanted[flair:])


def test_a_short_input_is_refused_before_anything_is_added(layout: Layout, tmp_path: Path) -> None:
    inputs = write(layout, tmp_path)
    (tmp_path / "b").write_bytes((tmp_path / "b").read_bytes()[:-4])
    with pytest.raises(UnfitInputError, match="input of b"):
        SecureSummation(opening(layout)).sum(layout, FORMATS, inputs, tmp_path / "sum")


def test_an_opening_for_other_sites_is_a_fault(layout: Layout, tmp_path: Path) -> None:
    inputs = write(layout, tmp_path)
    with pytest.raises(WrongSumError, match="other sites"):
        SecureSummation(opening(layout)).sum(layout, FORMATS, inputs[:2], tmp_path / "sum")


def test_memory_is_that_of_one_sum_however_many_sites(layout: Layout, tmp_path: Path) -> None:
    inputs = write(layout, tmp_path)
    model = 4 * 600_000
    many = [Input(site=f"s{i}", modalities=OWN["b"], path=inputs[1].path) for i in range(12)]
    names = tuple(one.site for one in many)
    pads = {segment.name: tuple(pad_of("b", segment.name).removed for _ in many) for segment in layout.segments}
    found = Opening(contributors=dict.fromkeys(pads, names), pads=pads, closed={})
    wide = replace(FORMATS, delta=replace(FORMATS.delta, clip=1e-6))
    tracemalloc.start()
    summation = SecureSummation(found)
    summation.sum(layout, wide, many, tmp_path / "sum")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * model
    assert set(summation.closed) == {"modality/flair", "modality/t1"}, "these values are made for three sites"
