"""What an attack on a mechanism achieved: a lower bound on epsilon, beside the upper bound that is claimed.

Reads what `fedmepd privacy audit --json` printed. A lower bound below the claim proves nothing right; one above it
proves something wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_AUDIT_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The result of an attack by canaries.

    Attributes:
        mechanism: Which was attacked.
        lower: Epsilon that the mechanism has at least, with that confidence.
        claimed: Epsilon that it has at most, as it is claimed.
        confidence: Of the lower bound, between 0 and 1.
        delta: For which both hold.
        noise: Noise multiplier with which it was attacked.
        clip: Clip with which it was attacked.
        trials: How often it ran.
    """

    mechanism: str
    lower: float
    claimed: float
    confidence: float
    delta: float
    noise: float
    clip: float
    trials: int

    @property
    def consistent(self) -> bool:
        """Whether the attack did no better than the claim allows."""
        return self.lower <= self.claimed
