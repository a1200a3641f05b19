"""Random bits, normal values and Poisson samples: distributions with fixed keys, and what must never repeat."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from security.errors import PrivacyError
from security.privacy.bits import RandomBits
from security.privacy.noise import SystemNoise

KEY = bytes(range(32))
FORKS = """
import os, sys
from security.privacy.bits import RandomBits
stream = RandomBits()
reading, writing = os.pipe()
if os.fork() == 0:
    os.write(writing, stream.take(32))
    os._exit(0)
print(stream.take(32) != os.read(reading, 32))
"""
LOADED = """
import sys
import security.privacy.noise, security.privacy.anchor_release, security.privacy.canaries
print(sorted({"torch", "opacus", "scipy"} & set(sys.modules)))
"""


def python(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def noise(key=KEY):
    return SystemNoise(RandomBits(key))


def test_bits_are_the_key_stream_of_aes_256():
    """The first block under the key of zeros is AES-256 of zeros (NIST SP 800-38A's cipher, counter from 0)."""
    assert RandomBits(bytes(32)).take(16).hex() == "dc95c078a2408989ad48a21492842087"


def test_bits_go_on_where_they_stopped_however_they_are_cut():
    whole = RandomBits(KEY).words(100_000)
    parts = RandomBits(KEY)
    assert np.array_equal(np.concatenate([parts.words(n) for n in (1, 0, 32_768, 67_231)]), whole)


def test_two_streams_of_the_system_differ():
    assert RandomBits().take(32) != RandomBits().take(32)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_stream_is_not_copied(duplicate):
    with pytest.raises(TypeError, match="not copied"):
        duplicate(RandomBits())


def test_a_forked_process_has_other_bits():
    assert python(FORKS) == "True"


def test_neither_torch_nor_scipy_is_loaded():
    assert python(LOADED) == "[]"


def test_a_key_of_another_length_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        RandomBits(b"short")


def test_normal_values_are_normal():
    values = noise().normal(400_001)
    assert values.shape == (400_001,)
    assert values.dtype == np.float32
    assert stats.kstest(values, "norm").pvalue > 0.01
    wide = values.astype(np.float64)
    assert abs(wide.mean()) < 4 / np.sqrt(len(wide))
    assert abs(wide.var() - 1) < 4 * np.sqrt(2 / len(wide))
    assert abs((wide**4).mean() - 3) < 4 * np.sqrt(96 / len(wide))


def test_normal_values_beyond_three_deviations_are_as_frequent_as_they_should_be():
    values = noise().normal(1_000_000)
    for side in (values, -values):
        beyond = int((side > 3).sum())
        assert stats.binomtest(beyond, len(values), stats.norm.sf(3)).pvalue > 0.01


def test_neighbouring_normal_values_have_nothing_to_do_with_each_other():
    values = noise().normal(400_000).astype(np.float64)
    for distance in (1, 2, 3, 16_384):
        for transform in (np.asarray, np.square):
            found = transform(values)
            correlation = np.corrcoef(found[:-distance], found[distance:])[0, 1]
            assert abs(correlation) < 4 / np.sqrt(len(values))


def test_pairs_of_normal_values_point_in_all_directions():
    first, second = noise().normal(400_000).reshape(-1, 2).T
    counts, _ = np.histogram(np.arctan2(second, first), bins=64, range=(-np.pi, np.pi))
    assert stats.chisquare(counts).pvalue > 0.01


def test_the_same_key_gives_the_same_noise_and_no_value_twice():
    one, same, other = noise().normal(1000), noise().normal(1000), noise(bytes(32)).normal(1000)
    assert np.array_equal(one, same)
    assert len(np.unique(np.concatenate([one, other]))) > 1990


def test_no_values_can_be_asked_for():
    assert noise().normal(0).shape == (0,)


@pytest.mark.parametrize("rate", [0.5, 0.03, 1 / 3])
def test_patients_are_drawn_independently_with_the_rate(rate):
    source, count, draws = noise(), 50, 4000
    chosen = [source.chosen(count, rate) for _ in range(draws)]
    sizes = np.bincount([len(c) for c in chosen], minlength=count + 1)
    expected = stats.binom.pmf(np.arange(count + 1), count, rate) * draws
    common = expected > 5
    observed = np.append(sizes[common], sizes[~common].sum())
    assert stats.chisquare(observed, np.append(expected[common], expected[~common].sum())).pvalue > 0.01
    each = np.bincount(np.concatenate(chosen).astype(int), minlength=count)
    assert ((each - draws * rate) ** 2 / (draws * rate * (1 - rate))).sum() < stats.chi2.ppf(0.99, count)


def test_drawn_patients_are_sorted_integers():
    chosen = noise().chosen(200, 0.5)
    assert chosen == sorted(set(chosen))
    assert all(type(place) is int for place in chosen)


def test_the_comparison_is_exact():
    """A draw below rate * 2^64 counts, the rate itself does not; a rate finer than 2^-64 is rounded down."""

    class Fixed:
        def words(self, count):
            return np.array([0, 1, (1 << 62) - 1, 1 << 62, (1 << 64) - 1][:count], np.uint64)

    assert SystemNoise(Fixed()).chosen(5, 0.25) == [0, 1, 2]
    assert SystemNoise(Fixed()).chosen(5, 1.9 * 2.0**-64) == [0]


def test_rate_one_draws_all_and_nobody_is_drawn_of_nobody():
    assert noise().chosen(4, 1.0) == [0, 1, 2, 3]
    assert noise().chosen(0, 0.5) == []


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_what_is_no_rate_is_refused(rate):
    with pytest.raises(PrivacyError, match="no probability above 0"):
        noise().chosen(3, rate)
