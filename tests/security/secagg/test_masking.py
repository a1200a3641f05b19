"""Masks: the streams are AES-256-CTR, windows do not matter, what was added can be taken away."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from security import masking
from security.masking import Masker, Pad

VECTORS = Path(__file__).parents[1] / "vectors"
KEYS = [bytes([n]) * 32 for n in range(3)]
PADS = [Pad(key=key, added=n != 1) for n, key in enumerate(KEYS)]


@pytest.fixture(autouse=True, params=["counter mode", "GCM"])
def way(request, monkeypatch):
    """Both ways of making the stream, whichever is the faster one here."""
    monkeypatch.setattr(masking, "_gcm_is_faster", lambda: request.param == "GCM")
    return request.param


def blocks(key, first, count):
    """Key stream words by single blocks of the cipher."""
    encryptor = Cipher(AES256(key), ECB()).encryptor()
    stream = encryptor.update(b"".join((first + n).to_bytes(16, "big") for n in range(count)))
    return np.frombuffer(stream, "<u4")


def test_a_pad_is_the_cipher_s_blocks_from_counter_zero_on():
    words = np.zeros(41, np.uint32)
    Masker([Pad(key=KEYS[1], added=True)]).apply(words)
    assert (words == blocks(KEYS[1], 0, 11)[:41]).all()


def test_a_masker_can_begin_at_any_block():
    words = np.zeros(9, np.uint32)
    Masker([Pad(key=KEYS[2], added=True)], start=4 * 70_000).apply(words)
    assert (words == blocks(KEYS[2], 70_000, 3)[:9]).all()


def test_a_masker_cannot_begin_within_a_block():
    with pytest.raises(ValueError, match="no multiple of 4"):
        Masker(PADS, start=6)


def test_the_slow_implementation_makes_the_same_stream():
    vector = json.loads((VECTORS / "prg.json").read_text())
    words = np.zeros(vector["values"], np.uint32)
    Masker([Pad(key=bytes.fromhex(vector["key"]), added=True)]).apply(words)
    assert hashlib.sha256(words.astype("<u4").tobytes()).hexdigest() == vector["sha256_of_little_endian_words"]
    for window in vector["windows"]:
        assert words[window["from"] :][: len(window["words"])].tolist() == window["words"]


@given(st.lists(st.integers(0, 70), min_size=1, max_size=6))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_windows_do_not_matter(sizes):
    at_once, parts = np.arange(sum(sizes), dtype=np.uint32), np.arange(sum(sizes), dtype=np.uint32)
    Masker(PADS).apply(at_once)
    masker, start = Masker(PADS), 0
    for size in sizes:
        masker.apply(parts[start : start + size])
        start += size
    assert (at_once == parts).all()


def test_pieces_do_not_matter(monkeypatch):
    long, short = np.arange(1000, dtype=np.uint32), np.arange(1000, dtype=np.uint32)
    Masker(PADS).apply(long)
    monkeypatch.setattr(masking, "_PIECE_BYTES", 20)
    Masker(PADS).apply(short)
    assert (long == short).all()


def test_what_was_added_can_be_taken_away():
    words = np.arange(5000, dtype=np.uint32)
    Masker(PADS).apply(words)
    assert not (words == np.arange(5000)).any()
    Masker([pad.removed for pad in PADS]).apply(words)
    assert (words == np.arange(5000)).all()


def test_a_pad_does_not_show_its_key():
    assert "key" not in repr(PADS[2])


def test_the_way_is_chosen_by_measurement_once(monkeypatch):
    monkeypatch.undo()
    masking._gcm_is_faster.cache_clear()
    first = masking._gcm_is_faster()
    assert isinstance(first, bool)
    assert masking._gcm_is_faster() is first
    assert masking._gcm_is_faster.cache_info().misses == 1


def test_a_stream_ends_before_it_would_repeat(way, monkeypatch):
    monkeypatch.setattr(masking, "_GCM_LIMIT", 400)
    masker = Masker(PADS)
    masker.apply(np.zeros(100, np.uint32))
    if way == "GCM":
        with pytest.raises(ValueError, match="larger than one key stream"):
            masker.apply(np.zeros(1, np.uint32))
    else:
        masker.apply(np.zeros(1, np.uint32))
