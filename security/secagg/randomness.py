"""Where a site's secrets come from."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from security.secagg.keys import KEY_BYTES
from security.shamir import random_coefficient


@dataclass(frozen=True, slots=True, kw_only=True)
class Randomness:
    """Where secrets come from: the operating system, but in tests with known answers.

    Attributes:
        key: Makes 32 bytes: channel key, mask key, then seeds.
        coefficient: Makes a coefficient of a sharing.
    """

    key: Callable[[], bytes] = lambda: secrets.token_bytes(KEY_BYTES)
    coefficient: Callable[[], int] = random_coefficient


SYSTEM = Randomness()
