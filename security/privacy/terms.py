"""The words of privacy budgets: what a mechanism does, what may be spent, and what a release is charged with.

Guarantees that no value of these types is meaningless: noise, clip and rate are positive and finite, a delta is a
probability. Whether a claim fits a budget says `ledger`; how much several events cost together says an accountant.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from security.encoding import digest, integer, text
from security.errors import BudgetError, PrivacyError

MECHANISMS = ("anchors", "training")
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Gaussian releases of one kind, as accountants take them.

    Attributes:
        noise: Noise multiplier z: the standard deviation over the largest L2 norm of a patient's part; above 0.
        rate: Probability with which a patient is drawn for a release, independently of the others; above 0, at most 1.
        steps: How many releases; 1 at least.

    Raises:
        BudgetError: If one of them is out of range.
    """

    noise: float
    rate: float
    steps: int

    def __post_init__(self) -> None:
        _check_positive("noise", self.noise)
        if not 0.0 < self.rate <= 1.0:
            raise BudgetError(f"a rate of {self.rate} is no probability above 0")
        if self.steps < 1:
            raise BudgetError(f"{self.steps} releases are none", remedy="an event has one release at least")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be spent on each patient of an owner, over all runs.

    Attributes:
        epsilon: Above 0, finite.
        delta: Above 0, below 1; also below one over the number of patients (`check_patients`).

    Raises:
        BudgetError: If one of them is out of range.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0.0):
            raise BudgetError(f"an epsilon of {self.epsilon} is no budget", remedy="epsilon is above 0 and finite")
        if not 0.0 < self.delta < 1.0:
            raise BudgetError(f"a delta of {self.delta} is no budget", remedy="delta is above 0 and below 1")

    def check_patients(self, patients: int) -> None:
        """Check that delta is below one over the number of patients.

        Raises:
            BudgetError: If it is not; a mechanism that publishes one patient as he is would have such a delta.
        """
        if patients < 1 or self.delta >= 1.0 / patients:
            raise BudgetError(
                f"delta {self.delta} is not below 1/{patients}, one over the number of patients",
                remedy="with such a delta publishing a whole patient would count as private: choose a smaller delta",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a release is charged with.

    Attributes:
        key: Digest of what is released, 64 hexadecimal digits (`claim_key`); one key is charged once.
        mechanism: `anchors` or `training`.
        run: The run.
        round_number: The round; 0 is the server's start.
        noise: Noise multiplier, as in `Event`.
        clip: Largest L2 norm of a patient's part; above 0.
        rate: As in `Event`.
        steps: As in `Event`.
        patients: How many the owner has; taken to be public.
        conditional: Whether the guarantee holds only for weights that are taken as given, though they were trained on
            the same patients without one.
        recipients: To whom the release goes, in words.

    Raises:
        BudgetError: If noise, clip, rate or steps is out of range.
        PrivacyError: If another field is malformed.
    """

    key: str
    mechanism: str
    run: str
    round_number: int
    noise: float
    clip: float
    rate: float
    steps: int
    patients: int
    conditional: bool
    recipients: str

    def __post_init__(self) -> None:
        _check_positive("clip", self.clip)
        Event(noise=self.noise, rate=self.rate, steps=self.steps)
        check_digest(self.key)
        if self.mechanism not in MECHANISMS:
            raise PrivacyError(f"{self.mechanism!r} is no mechanism", remedy=f"mechanisms are {', '.join(MECHANISMS)}")
        if self.round_number < 0 or self.patients < 1:
            raise PrivacyError(f"round {self.round_number} of {self.patients} patients cannot be")

    @property
    def event(self) -> Event:
        """What an accountant needs of it."""
        return Event(noise=self.noise, rate=self.rate, steps=self.steps)


def claim_key(*, run: str, round_number: int, mechanism: str, inputs: str) -> str:
    """Return the key of a claim (SPEC 13.5).

    Args:
        run: The run.
        round_number: The round.
        mechanism: Which.
        inputs: What the release is computed from, as any text that names it; other inputs are another release.

    Raises:
        EncodingError: If the round is negative or a text has no UTF-8 form.
    """
    return digest("fedmepd/ledger-claim", 1, text(run), integer(round_number), text(mechanism), text(inputs)).hex()


def check_digest(value: str) -> None:
    """Check that a text is a digest as this package writes it: 64 lowercase hexadecimal digits.

    Raises:
        PrivacyError: If it is not.
    """
    if not _DIGEST.fullmatch(value):
        raise PrivacyError(f"{value[:80]!r} is no digest", remedy="it has 64 lowercase hexadecimal digits")


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0.0):
        raise BudgetError(f"a {name} of {value} protects nobody", remedy=f"{name} is above 0 and finite")
