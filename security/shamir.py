"""Shamir's secret sharing of 32-byte secrets over the integers modulo p = 2^256 + 297 (SPEC 12).

Any t shares give the secret, fewer say nothing about it. Shares are not authenticated: whether a recovered secret is
the right one, the caller must know from elsewhere (SPEC 11.1).

Source: Shamir, "How to share a secret", 1979.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence

from security.errors import ShareError

PRIME = (1 << 256) + 297
SECRET_BYTES, SHARE_BYTES = 32, 33
Coefficient = Callable[[], int]


def random_coefficient() -> int:
    """Draw uniformly from 0 to p - 1."""
    return secrets.randbelow(PRIME)


def split(
    secret: bytes, *, threshold: int, count: int, coefficient: Coefficient = random_coefficient
) -> tuple[bytes, ...]:
    """Return shares 1 to `count` of a secret (SPEC 12.1).

    Args:
        secret: 32 bytes.
        threshold: Shares that give the secret, from 1 to `count`.
        count: Shares in all.
        coefficient: Draws the polynomial's coefficients, that of x first; fixed in tests only.

    Raises:
        ShareError: If the arguments make no sharing.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= count:
        raise ShareError(f"a secret of {len(secret)} bytes cannot be shared {threshold} of {count}")
    polynomial = [int.from_bytes(secret, "big"), *(coefficient() for _ in range(threshold - 1))]
    polynomial.reverse()  # for Horner's rule
    return tuple(_value(polynomial, x).to_bytes(SHARE_BYTES, "big") for x in range(1, count + 1))


def check_share(share: bytes) -> int:
    """Return the number that a share is (SPEC 12.2).

    Raises:
        ShareError: If it is malformed.
    """
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise ShareError(f"a share has {len(share)} bytes or is no number below p", remedy="discard it")
    return value


class Recovery:
    """Recovers secrets from the shares of one set of points: the interpolation's weights are computed once.

    Args:
        points: Which shares there are, from 1 on, each once.

    Raises:
        ShareError: If a point is there twice or is no point.
    """

    def __init__(self, points: Sequence[int]) -> None:
        if len(set(points)) != len(points) or not points or not all(0 < x < PRIME for x in points):
            raise ShareError("shares of different points are needed")
        self._weights = tuple(_weight(x, points) for x in points)

    def secret(self, shares: Sequence[bytes]) -> bytes:
        """Return the secret of as many shares as there are points, in their order.

        Raises:
            ShareError: If a share is malformed, or they are not shares of one secret of 32 bytes.
        """
        if len(shares) != len(self._weights):
            raise ShareError(f"{len(shares)} shares for {len(self._weights)} points")
        value = sum(weight * check_share(share) for weight, share in zip(self._weights, shares, strict=True)) % PRIME
        if value >> (8 * SECRET_BYTES):
            raise ShareError("these are not shares of one secret")
        return value.to_bytes(SECRET_BYTES, "big")


def value_at(shares: Mapping[int, bytes], x: int) -> int:
    """Return the share at another point, as a number, that goes with as many shares as the threshold.

    Args:
        shares: By point.
        x: A point that is not among them.
    """
    total = 0
    for i, share in shares.items():
        numerator = denominator = 1
        for j in shares:
            if j != i:
                numerator = numerator * (x - j) % PRIME
                denominator = denominator * (i - j) % PRIME
        total += check_share(share) * numerator * pow(denominator, -1, PRIME)
    return total % PRIME


def _value(polynomial: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in polynomial:
        value = (value * x + coefficient) % PRIME
    return value


def _weight(x: int, points: Sequence[int]) -> int:
    """Return the weight of a point in the interpolation at 0 (Lagrange)."""
    numerator = denominator = 1
    for other in points:
        if other != x:
            numerator = numerator * other % PRIME
            denominator = denominator * (other - x) % PRIME
    return numerator * pow(denominator, -1, PRIME) % PRIME
