"""Frames: the same bytes for ever, and never the same bytes for different contents."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.encoding import digest, frame, integer, moment, text
from security.errors import EncodingError

VECTORS = json.loads((Path(__file__).parent / "vectors" / "encoding.json").read_text())
LABELS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=6)
FRAMES = st.tuples(LABELS, st.integers(1, 2**32 - 1), st.lists(st.binary(max_size=12), max_size=4))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_known_answers(vector):
    parts = [bytes.fromhex(part) for part in vector["parts"]]
    assert frame(vector["label"], vector["version"], *parts).hex() == vector["frame"]
    assert digest(vector["label"], vector["version"], *parts).hex() == vector["digest"]


def test_the_form_is_the_one_of_the_specification():
    expected = bytes(7) + b"\x03abc" + b"\x00\x00\x00\x02" + bytes(7) + b"\x01" + bytes(7) + b"\x02hi"
    assert frame("abc", 2, b"hi") == expected


@given(FRAMES, FRAMES)
def test_no_two_contents_share_a_frame_nor_is_one_the_beginning_of_another(first, second):
    one, other = (frame(label, version, *parts) for label, version, parts in (first, second))
    assert (one == other) == (first == second)
    if first != second:
        assert not one.startswith(other)


@given(st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=4))
def test_moving_a_byte_between_parts_changes_the_frame(parts):
    assert frame("a", 1, *parts) != frame("a", 1, b"".join(parts), b"")
    assert frame("a", 1, *parts) != frame("a", 1, *parts, b"")


@pytest.mark.parametrize(("label", "version"), [("", 1), ("ä", 1), ("a\n", 1), ("a", 0), ("a", 2**32)])
def test_labels_and_versions_out_of_range_are_refused(label, version):
    with pytest.raises(EncodingError):
        frame(label, version)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_integers_out_of_range_are_refused(value):
    with pytest.raises(EncodingError, match="integer"):
        integer(value)


def test_an_instant_is_the_same_in_every_time_zone():
    at = datetime(2030, 1, 1, 0, 0, 0, 5, tzinfo=UTC)
    assert moment(at) == moment(at.astimezone(timezone(timedelta(hours=5)))) == integer(1893456000_000005)


def test_instants_without_zone_or_before_1970_are_refused():
    with pytest.raises(EncodingError, match="no time zone"):
        moment(datetime(2030, 1, 1))  # noqa: DTZ001
    with pytest.raises(EncodingError, match="before 1970"):
        moment(datetime(1969, 12, 31, tzinfo=UTC))


def test_texts_without_utf8_form_are_refused():
    with pytest.raises(EncodingError):
        text("\ud800")
