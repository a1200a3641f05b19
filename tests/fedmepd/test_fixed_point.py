"""Fixed-point sums: unbiased, exact to decode, never wrapping, independent of order, and the same everywhere."""

from __future__ import annotations

from itertools import permutations
from math import log2

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fedmepd.errors import ConfigError, UpdateError
from fedmepd.fixed_point import FixedPoint, fixed_point, rounding_stream
from fedmepd.seeds import seed_of


class AlmostOne(np.random.Generator):
    """A rounding stream that always rounds up as far as it can."""

    def random(self, shape):
        return np.full(shape, np.nextafter(1.0, 0.0))


class Zero(np.random.Generator):
    """A rounding stream that always rounds down."""

    def random(self, shape):
        return np.zeros(shape)


def stream(*parts):
    return rounding_stream("run", 1, "site-1", *parts)


def add(vectors):
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
    return total


def test_rounding_is_unbiased():
    coarse = FixedPoint(clip=8.0, scale=4.0)
    values = np.repeat(np.linspace(-1.3, 1.3, 14), 20_000)
    decoded = coarse.decode(coarse.encode(values, stream())).reshape(14, -1)
    # a rounding error is below 1/4 with standard deviation at most 1/8; five standard errors of the mean
    np.testing.assert_allclose(decoded.mean(axis=1), np.linspace(-1.3, 1.3, 14), rtol=0, atol=5 / 8 / np.sqrt(20_000))
    assert np.abs(decoded.ravel() - values).max() < 1 / coarse.scale


def test_multiples_of_the_step_are_decoded_exactly():
    form = fixed_point(clip=1.0, sites=8)
    values = np.array([-1.0, -0.5, 0.0, 2**-20, 1 / 64, 0.75, 1.0])
    np.testing.assert_array_equal(form.decode(form.encode(values, stream())), values)


def test_zero_stays_zero_whatever_the_stream_draws():
    form = fixed_point(clip=4.0, sites=5)
    assert form.encode(np.zeros(3), AlmostOne(np.random.Philox(0))).tolist() == [
        0,
        0,
        0,
    ]  # a slot without contributors stays empty


def test_values_beyond_the_clip_become_the_clip():
    form = fixed_point(clip=2.0, sites=3)
    decoded = form.decode(form.encode(np.array([5.0, -1e30]), stream()))
    np.testing.assert_allclose(decoded, [2.0, -2.0], rtol=0, atol=1.01 / form.scale)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    sites=st.integers(1, 5000),
    clip=st.floats(2**-20, 2**20),
    precision=st.sampled_from([np.float32, np.float64]),
)
@example(sites=1, clip=1.0, precision=np.float32)
@example(sites=2047, clip=float(1 << 20), precision=np.float32)
@example(sites=3, clip=((2**31 - 1) / 3 - 1) / 2**12, precision=np.float32)  # the scale leaves no room to spare
def test_a_sum_at_the_extremes_never_wraps(sites, clip, precision):
    assume((2**31 - 1) / sites - 1 >= clip)
    form = fixed_point(clip=clip, sites=sites)
    assert log2(form.scale).is_integer()
    assert sites * (form.scale * clip + 1) < 2**31
    for sign, draws in ((1, AlmostOne(np.random.Philox(0))), (-1, Zero(np.random.Philox(0)))):
        value = np.array([sign * np.finfo(precision).max], precision)
        one = int(form.encode(value, draws).view(np.int32)[0])
        total = np.array([sites * one % 2**32], np.uint32)  # what `sites` additions in the ring give
        assert abs(form.decode(total)[0] - sign * sites * clip) <= sites / form.scale


def test_the_scale_is_the_finest_power_of_two_that_fits():
    for sites in (1, 2, 3, 8, 100):
        form = fixed_point(clip=1.0, sites=sites)
        assert sites * (2 * form.scale + 1) >= 2**31
    assert fixed_point(clip=1.0, sites=8) == FixedPoint(clip=1.0, scale=2.0**27)
    assert fixed_point(clip=4.0, sites=8) == FixedPoint(clip=4.0, scale=2.0**25)


def test_no_room_for_the_sum_is_refused_and_says_for_how_many_sites():
    with pytest.raises(ConfigError, match=r"4000 sites.*32 bits"):
        fixed_point(clip=1e6, sites=4000)


def test_sums_do_not_depend_on_the_order_of_arrival():
    form = fixed_point(clip=1.0, sites=5)
    draws = np.random.default_rng(0)
    vectors = [form.encode(draws.normal(0, 0.4, 200).astype(np.float32), stream(i)) for i in range(5)]
    sums = {add(order).tobytes() for order in permutations(vectors)}
    assert len(sums) == 1


def test_the_mean_of_many_sites_is_off_by_less_than_the_step():
    form = fixed_point(clip=1.0, sites=8)
    values = np.random.default_rng(1).uniform(-1, 1, (8, 500))
    decoded = form.decode(add([form.encode(row, stream(i)) for i, row in enumerate(values)])) / 8
    assert np.abs(decoded - values.mean(axis=0)).max() < 1 / form.scale


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(UpdateError, match="not finite"):
        fixed_point(clip=1.0, sites=2).encode(np.array([0.0, bad], np.float32), stream())


def test_streams_differ_by_run_round_site_and_segment():
    parts = [("run", 1, "site-1", "common"), ("other", 1, "site-1", "common"), ("run", 2, "site-1", "common")]
    parts += [("run", 1, "site-2", "common"), ("run", 1, "site-1", "modality/t1"), ("run", 11, "site-", "common")]
    assert len({rounding_stream(*p).bytes(16) for p in parts}) == len(parts)


def test_streams_and_codes_are_known_constants_on_every_platform():
    random = rounding_stream("run", 1, "site-1", "common")
    assert random.integers(0, 2**32, 4).tolist() == [771997382, 346599890, 407033919, 1395954148]
    values = np.array([0.0, 1.0, -1.0, 0.3, -0.3, 1e-9, 5.0])
    codes = fixed_point(clip=1.0, sites=8).encode(values, rounding_stream("run", 1, "site-1", "common"))
    assert codes.tolist() == [0, 134217728, 4160749568, 40265319, 4254701978, 0, 134217728]


def test_seeds_are_known_constants_and_keep_purposes_apart():
    assert seed_of("training", 0, "site-1", 3) == 7246198290363785518
    assert seed_of("crop", 7) == 5881302733496961823
    assert len({seed_of("a", 1, 2), seed_of("b", 1, 2), seed_of("a", 12), seed_of("a", 2, 1)}) == 4
    assert all(0 <= seed_of("range", i) < 2**63 for i in range(200))
