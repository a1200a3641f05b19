"""Secret sharing: known answers, any threshold of shares recovers, fewer and wrong ones do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security.errors import ShareError
from security.shamir import PRIME, SHARE_BYTES, Recovery, check_share, random_coefficient, split

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "shamir.json").read_text())["cases"]
SECRET = bytes(range(32))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_shares_are_those_of_the_slow_implementation(case):
    coefficients = iter(int(text, 16) for text in case["coefficients"])
    shares = split(
        bytes.fromhex(case["secret"]), threshold=case["t"], count=case["n"], coefficient=lambda: next(coefficients)
    )
    assert {str(x): share.hex() for x, share in enumerate(shares, start=1)} == case["shares"]
    for recovery in case["recovery"]:
        points = recovery["from"]
        assert Recovery(points).secret([shares[x - 1] for x in points]).hex() == recovery["secret"]


def test_the_modulus_is_the_first_prime_after_2_to_256():
    def composite(n):
        return any(pow(base, n - 1, n) != 1 for base in (2, 3, 5, 7, 11, 13, 17))

    assert not composite(PRIME)
    assert all(composite(n) for n in range((1 << 256) + 1, PRIME))


@given(st.binary(min_size=32, max_size=32), st.integers(1, 8), st.integers(0, 4), st.randoms())
@settings(deadline=None, max_examples=40)
def test_any_threshold_of_shares_recovers(secret, threshold, spare, random):
    count = threshold + spare
    shares = split(secret, threshold=threshold, count=count)
    points = random.sample(range(1, count + 1), threshold)
    assert Recovery(points).secret([shares[x - 1] for x in points]) == secret


def test_one_share_less_fits_every_secret():
    """For each secret there is a last share that makes it: what is missing decides all."""
    shares = split(SECRET, threshold=3, count=3)
    for wanted in (bytes(32), b"\xff" * 32):
        known = [int.from_bytes(share, "big") for share in shares[:2]]
        # Lagrange at 0 for the points 1, 2, 3: 3 f(1) - 3 f(2) + f(3)
        third = (int.from_bytes(wanted, "big") - 3 * known[0] + 3 * known[1]) % PRIME
        assert Recovery([1, 2, 3]).secret([*shares[:2], third.to_bytes(SHARE_BYTES, "big")]) == wanted


def test_shares_of_different_secrets_are_found_out_or_differ():
    one, other = (split(bytes([n]) * 32, threshold=2, count=3) for n in (1, 2))
    try:
        found = Recovery([1, 2]).secret([one[0], other[1]])
    except ShareError:
        found = b""
    assert found not in (bytes([1]) * 32, bytes([2]) * 32)


def test_a_result_beyond_32_bytes_is_an_error():
    too_large = ((1 << 256) + 5).to_bytes(SHARE_BYTES, "big")
    with pytest.raises(ShareError, match="not shares of one secret"):
        Recovery([1]).secret([too_large])


@pytest.mark.parametrize(("threshold", "count", "size"), [(0, 3, 32), (4, 3, 32), (2, 3, 31)])
def test_impossible_sharings_are_refused(threshold, count, size):
    with pytest.raises(ShareError, match="cannot be shared"):
        split(bytes(size), threshold=threshold, count=count)


@pytest.mark.parametrize("points", [[], [0, 1], [1, 1], [PRIME, 1]])
def test_impossible_points_are_refused(points):
    with pytest.raises(ShareError, match="different points"):
        Recovery(points)


def test_as_many_shares_as_points_are_needed():
    with pytest.raises(ShareError, match="1 shares for 2 points"):
        Recovery([1, 2]).secret([bytes(SHARE_BYTES)])


@pytest.mark.parametrize("share", [b"", bytes(32), bytes(34), PRIME.to_bytes(SHARE_BYTES, "big"), b"\xff" * 33])
def test_malformed_shares_are_refused(share):
    with pytest.raises(ShareError, match="no number below p"):
        check_share(share)


def test_the_largest_share_is_sound():
    assert check_share((PRIME - 1).to_bytes(SHARE_BYTES, "big")) == PRIME - 1


def test_coefficients_are_below_the_modulus_and_differ():
    drawn = {random_coefficient() for _ in range(50)}
    assert len(drawn) == 50
    assert all(0 <= value < PRIME for value in drawn)
