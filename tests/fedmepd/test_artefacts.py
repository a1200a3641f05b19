"""What travels has exactly the layout's lengths, survives the way, and is refused in words where it does not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedmepd.aggregation import Accumulator, open_sum
from fedmepd.artefacts import (
    SegmentValues,
    contribution_length,
    dump_contribution,
    dump_segment,
    dump_sum,
    dump_tensors,
    map_words,
    parse_contribution,
    parse_segment,
    parse_sum,
    parse_tensors,
    segment_length,
    sum_length,
)
from fedmepd.errors import ConfigError, UpdateError
from fedmepd.layout import COMMON
from fedmepd.layout_json import layout_digest, layout_from_json, layout_to_json
from fedmepd.rounds import broadcast
from tests.fedmepd.drifting_rounds import EVERYONE, Federation, noise, rules_for


@pytest.fixture(scope="module")
def federation():
    """Five sites after a round, whose contributions are kept."""
    federation = Federation(rules_for(), EVERYONE)
    federation.run({site: noise(site) for site in EVERYONE})
    return federation


@pytest.fixture(scope="module")
def layout(federation):
    return federation.rules.layout


def test_a_segment_survives_the_way(federation, layout):
    sent = broadcast(federation.server, federation.rules, layout.modalities, federation.roster)
    for segment in layout.segments:
        name = segment.name
        values = SegmentValues(plain=sent.plain[name], filters=sent.filters[name], counts=sent.counts[name])
        data = dump_segment(values)
        assert len(data) == segment_length(segment)
        back = parse_segment(data, segment)
        for part in ("plain", "filters", "counts"):
            np.testing.assert_array_equal(getattr(back, part), getattr(values, part))


def test_a_segment_of_another_length_or_with_broken_values_is_refused(layout):
    segment = layout.segments[0]
    data = bytes(segment_length(segment))
    for wrong in (data[:-1], data + b"0", b""):
        with pytest.raises(UpdateError, match=r"segment 'modality/a' has \d+ bytes, the layout wants"):
            parse_segment(wrong, segment)
    with pytest.raises(UpdateError, match="'modality/a' holds values that are not finite"):
        parse_segment(np.float32("nan").tobytes() + data[4:], segment)


def test_contributions_are_summed_from_mapped_files_to_the_same_sum(federation, layout, tmp_path):
    total = Accumulator(layout)
    for site, contribution in federation.contributions[0].items():
        path = tmp_path / site
        path.write_bytes(dump_contribution(contribution, layout))
        assert path.stat().st_size == contribution_length(layout, EVERYONE[site])
        total.add(parse_contribution(map_words(path), layout, EVERYONE[site], site=site))
    data = dump_sum(total)
    assert len(data) == sum_length(layout)
    back = parse_sum(data, layout, contributors=total.contributors, sites=total.sites)
    one, other = open_sum(back, federation.rules.formats), federation.opened[0]
    assert (one.scalars, one.sites) == (other.scalars, other.sites)
    for name, segment in other.segments.items():
        np.testing.assert_array_equal(one.segments[name].filters, segment.filters)
        assert one.segments[name].contributors == total.contributors[name] == segment.contributors


def test_a_segment_that_nobody_contributed_to_is_absent_after_the_way(federation, layout):
    total = Accumulator(layout)
    total.add(federation.contributions[0]["s3"])  # owns a alone
    back = parse_sum(dump_sum(total), layout, contributors=total.contributors, sites=["s3"])
    assert set(back.sums) == {"modality/a", COMMON}


@pytest.mark.parametrize("change", [-4, -1, 4])
def test_a_contribution_of_another_length_is_refused(layout, tmp_path, change):
    path = tmp_path / "contribution"
    path.write_bytes(bytes(contribution_length(layout, ("a",)) + change))
    with pytest.raises(UpdateError, match="bytes"):
        parse_contribution(map_words(path), layout, ("a",), site="s3")
    with pytest.raises(UpdateError, match="bytes"):
        parse_contribution(path.read_bytes(), layout, ("a",), site="s3")


def test_a_file_that_is_not_there_or_empty_is_refused(tmp_path):
    with pytest.raises(UpdateError, match="nothing cannot be read"):
        map_words(tmp_path / "nothing")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(UpdateError, match="empty has 0 bytes"):
        map_words(tmp_path / "empty")


def test_tensors_survive_the_way_and_are_checked():
    arrays = {"level1": np.ones((2, 3), np.float32), "weights": np.zeros(4, np.float32)}
    expected = {name: array.shape for name, array in arrays.items()}
    back = parse_tensors(dump_tensors(arrays), expected, what="anchors")
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)
    assert back["weights"].flags.writeable
    wrong = [
        ({"weights": arrays["weights"]}, "'level1' is missing"),
        ({**arrays, "x": arrays["weights"]}, "'x' is unknown"),
        ({**arrays, "weights": np.zeros(5, np.float32)}, "not float32"),
        ({**arrays, "weights": np.zeros(4)}, "float64"),
        ({**arrays, "weights": np.full(4, np.inf, np.float32)}, "not finite"),
    ]
    for given, words in wrong:
        with pytest.raises(UpdateError, match=f"anchors: .*{words}"):
            parse_tensors(dump_tensors(given), expected, what="anchors")
    for data in (b"", b"rubbish", dump_tensors(arrays)[:-2], b"\xff" * 64):
        with pytest.raises(UpdateError, match="anchors: not safetensors"):
            parse_tensors(data, expected, what="anchors")


def test_a_layout_survives_json(layout):
    back = layout_from_json(json.loads(json.dumps(layout_to_json(layout))))
    assert back == layout
    assert layout_digest(back) == layout_digest(layout)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"more": 1}, "exactly the keys"),
        ({"encoders": 1}, "encoders"),
        ({"modalities": []}, "modalities"),
        ({"modalities": ["a", "a"]}, "distinct"),
        ({"shapes": [["x", [0]]]}, "positive sizes"),
        ({"shapes": [["x", [True]]]}, "positive sizes"),
        ({"shapes": [["x", [1, 1, 1, 1, 1, 1]]]}, "1 to 5"),
        ({"shapes": [["x", [2]], ["x", [2]]]}, "shapes.1 must be a new name"),
        ({"shapes": [["x", [1 << 29, 16]]]}, "more than"),
        ({"shapes": {}}, "shapes must be a list"),
        ({"shapes": [["encoders.z.weight", [1]]]}, "do not make a network"),
        ({"shapes": [["decoder.weight", [1]]]}, "do not make a network"),
    ],
)
def test_a_layout_from_elsewhere_is_checked(layout, change, words):
    with pytest.raises(ConfigError, match=words):
        layout_from_json({**layout_to_json(layout), **change})
