"""What an attack on the anchor release achieved: lower bounds on epsilon, beside the upper bound that is claimed.

Reads what `fedmepd privacy audit --json` printed (`canaries`). A lower bound below the claim proves nothing right; one
above it proves something wrong. Whether it is above is judged here, by the figures, and not taken from the file.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from typing import Any

from security.errors import PrivacyError

MAX_AUDIT_BYTES = 64 * 1024
_REMEDY = "make it with: fedmepd privacy audit --json > audit.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The result of an attack by canaries.

    Attributes:
        noise: Noise multiplier that was attacked.
        clip: Clip that was attacked.
        releases: How many releases the attacker saw in each trial.
        trials: How often it ran, with the canary and without it alike.
        delta: For which all epsilons hold.
        confidence: Of the lower bounds, between 0 and 1.
        epsilon_claimed: Epsilon that the mechanism has at most, as is claimed.
        epsilon_lower: Epsilon that it has at least, whatever the distribution of its noise.
        epsilon_lower_gaussian: Epsilon that it has at least if its noise is Gaussian.
        strength_claimed: Strength of the release as a Gaussian one, at most.
        strength_lower: The same, at least.
    """

    noise: float
    clip: float
    releases: int
    trials: int
    delta: float
    confidence: float
    epsilon_claimed: float
    epsilon_lower: float
    epsilon_lower_gaussian: float
    strength_claimed: float
    strength_lower: float

    @property
    def consistent(self) -> bool:
        """Whether the attack did no better than the claim allows."""
        return self.epsilon_lower <= self.epsilon_claimed and self.strength_lower <= self.strength_claimed


def read_audit(document: bytes) -> Bound:
    """Return what a file says.

    Raises:
        PrivacyError: If it is not what `fedmepd privacy audit --json` prints.
    """
    try:
        if len(document) > MAX_AUDIT_BYTES:
            raise ValueError("it is too large")  # noqa: TRY301 -- as any other fault of the file
        found = json.loads(document)
        if not isinstance(found, dict):
            raise ValueError("an object is expected")  # noqa: TRY004, TRY301 -- likewise
        bound = Bound(**{one.name: _number(found, one.name, whole=one.type == "int") for one in fields(Bound)})
    except (ValueError, RecursionError) as error:
        raise PrivacyError(f"the result of the audit is malformed: {error}", remedy=_REMEDY) from None
    return bound


def _number(found: dict[str, Any], name: str, *, whole: bool) -> Any:
    value = found.get(name)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ValueError(f"{name} is missing or no number")  # noqa: TRY004 -- one kind of error for `read_audit`
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is not a finite number from 0 on")
    return value
