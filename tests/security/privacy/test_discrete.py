"""The discrete Gaussian has exactly the probabilities that it should have."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats

from security.errors import PrivacyError
from security.privacy.bits import RandomBits
from security.privacy.discrete import discrete_gaussian

KEY = bytes(range(32))


def probabilities(variance, reach):
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * variance))
    return weights / weights.sum()


@pytest.mark.parametrize("variance", [1, 2, 9, 100])
def test_frequencies_are_the_probabilities(variance):
    count, reach = 40_000, 12 * int(np.ceil(np.sqrt(variance)))
    values = discrete_gaussian(count, variance, RandomBits(KEY))
    assert np.abs(values).max() <= reach
    observed = np.bincount(values + reach, minlength=2 * reach + 1)
    expected = probabilities(variance, reach) * count
    common = expected >= 5
    pooled = np.append(expected[common], expected[~common].sum())
    assert stats.chisquare(np.append(observed[common], observed[~common].sum()), pooled).pvalue > 0.01


@pytest.mark.parametrize("variance", [1 << 48, (1 << 54) + 12345])
def test_wide_ones_look_like_the_continuous_one(variance):
    values = discrete_gaussian(20_000, variance, RandomBits(KEY)) / np.sqrt(float(variance))
    assert stats.kstest(values, "norm").pvalue > 0.01
    assert abs(values.mean()) < 4 / np.sqrt(len(values))
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / len(values))


def test_the_last_bits_of_wide_ones_are_uniform():
    values = discrete_gaussian(20_000, 1 << 48, RandomBits(KEY))
    assert stats.chisquare(np.bincount(values % 16, minlength=16)).pvalue > 0.01


def test_neighbours_have_nothing_to_do_with_each_other():
    values = discrete_gaussian(40_000, 50, RandomBits(KEY)).astype(float)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 4 / np.sqrt(len(values))


def test_equal_keys_give_equal_values_and_a_stream_goes_on():
    stream = RandomBits(KEY)
    first, second = discrete_gaussian(50, 1 << 20, stream), discrete_gaussian(50, 1 << 20, stream)
    assert np.array_equal(first, discrete_gaussian(50, 1 << 20, RandomBits(KEY)))
    assert not np.array_equal(first, second)
    assert first.dtype == np.int64


def test_a_thousand_values_take_well_below_a_second():
    began = time.process_time()
    discrete_gaussian(1000, 1 << 50, RandomBits(KEY))
    assert time.process_time() - began < 0.5


def test_none_can_be_asked_for():
    assert discrete_gaussian(0, 1, RandomBits(KEY)).shape == (0,)


@pytest.mark.parametrize("variance", [0, -1, 1 << 113])
def test_variances_without_noise_or_room_are_refused(variance):
    with pytest.raises(PrivacyError, match="out of range"):
        discrete_gaussian(1, variance, RandomBits(KEY))
