"""Sums in clear: the same integers as the simulation's, unfit inputs named, memory that does not grow with sites."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from coordinator.clear_sum import ClearSummation, UnfitInputError
from coordinator.ports import Input
from fedmepd.aggregation import Accumulator, quantisation
from fedmepd.artefacts import contribution_length, dump_sum, parse_contribution
from fedmepd.layout import Layout, build_layout

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


def write(layout: Layout, folder: Path, seed: int = 0) -> list[Input]:
    random = np.random.default_rng(seed)
    inputs = []
    for site, own in OWN.items():
        words = random.integers(-1000, 1000, contribution_length(layout, own) // 4).astype(np.int32).view(np.uint32)
        (folder / site).write_bytes(words.tobytes())
        inputs.append(Input(site=site, modalities=own, path=folder / site))
    return inputs


def test_the_sum_is_that_of_the_simulation_in_any_order(layout: Layout, tmp_path: Path) -> None:
    inputs = write(layout, tmp_path)
    expected = Accumulator(layout)
    for found in inputs:
        expected.add(parse_contribution(found.path.read_bytes(), layout, found.modalities, site=found.site))
    for order in (inputs, inputs[::-1]):
        contributors = ClearSummation().sum(layout, FORMATS, order, tmp_path / "sum")
        assert (tmp_path / "sum").read_bytes() == dump_sum(expected)
        assert contributors == expected.contributors == {"modality/flair": 2, "modality/t1": 2, "common": 3}


def test_a_short_input_is_refused_by_name_before_anything_is_added(layout: Layout, tmp_path: Path) -> None:
    inputs = write(layout, tmp_path)
    (tmp_path / "b").write_bytes((tmp_path / "b").read_bytes()[:-4])
    with pytest.raises(UnfitInputError, match="input of b is refused: it has .* bytes") as caught:
        ClearSummation().sum(layout, FORMATS, inputs, tmp_path / "sum")
    assert caught.value.site == "b"
    assert not (tmp_path / "sum").exists()


@pytest.mark.parametrize("place", [0, 299_999, -1])
@pytest.mark.parametrize("value", [2**31 - 1, -(2**31)])
def test_a_value_out_of_range_is_refused_by_name(layout: Layout, tmp_path: Path, place: int, value: int) -> None:
    inputs = write(layout, tmp_path)
    words = np.fromfile(tmp_path / "c", np.int32)
    words[place] = value
    words.tofile(tmp_path / "c")
    with pytest.raises(UnfitInputError, match="input of c .* outside of its range"):
        ClearSummation().sum(layout, FORMATS, inputs, tmp_path / "sum")


def test_memory_is_that_of_one_sum_however_many_sites(layout: Layout, tmp_path: Path) -> None:
    inputs = write(layout, tmp_path)
    many = [Input(site=f"s{i}", modalities=i_.modalities, path=i_.path) for i in range(8) for i_ in inputs[1:2]]
    model = 4 * 600_000
    tracemalloc.start()
    ClearSummation().sum(layout, quantisation(sites=8), many, tmp_path / "sum")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * model
