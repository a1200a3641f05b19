"""An empirical check of the anchor release: does one patient show in it more than is claimed?

`audit` runs the release itself many times without and with a *canary*, a patient far beyond the clip whose vector the
attacker knows, and scores each output by its inner product with that vector, the best test against Gaussian noise.
Thresholds are chosen on one half of the outputs; on the other half Clopper-Pearson intervals of the two error rates
give two lower bounds, which hold together with the stated confidence:

- `epsilon_lower`, whatever the distribution of the noise. For a small delta it stays well below the truth.
- `strength_lower`, on the strength mu of a Gaussian release: if the release is as private as a Gaussian one of strength
  mu, then Phi^-1(true positives) - Phi^-1(false positives) <= mu at every threshold. It is tight.

A lower bound above the claim shows that the mechanism is broken, but for the stated error. One below it proves nothing:
a fault that this canary does not meet stays unseen. The table is small (two classes, two levels of two channels), which
changes nothing about the mechanism; features and training are not audited.

Source: Jagielski, Ullman and Oprea, "Auditing differentially private machine learning", 2020; Nasr et al., "Tight
auditing of differentially private machine learning", 2023, for the second bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from security.errors import PrivacyError
from security.privacy import accounting, gaussian
from security.privacy.anchor_release import Released
from security.privacy.anchor_vectors import VectorSpace
from security.privacy.bits import RandomBits
from security.privacy.terms import Event

Floats = npt.NDArray[np.float64]
_CLASSES = 2
_CHANNELS = (2, 2)
_BEYOND = 64.0  # times the clip: how long the canary's vector is before it is shortened
_FEWEST = 100
_INTERVALS = 4  # two bounds, each from two one-sided intervals
_CHOOSING_ERROR = 1e-3  # keeps the choice from thresholds that a few lucky outputs make look good


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is audited, and how.

    Attributes:
        noise: Noise multiplier z.
        clip: C.
        releases: How many the attacker sees.
        patients: In the table, without the canary.
        trials: How often, with the canary and without it alike; half of them choose thresholds.
        delta: At which epsilon is stated.
        confidence: Probability with which both lower bounds hold.

    Raises:
        PrivacyError: If one of them is out of range; noise and clip are the release's to judge.
    """

    noise: float
    clip: float = 1.0
    releases: int = 1
    patients: int = 8
    trials: int = 2000
    delta: float = 1e-5
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not (0.0 < self.delta < 1.0 and 0.0 < self.confidence < 1.0):
            raise PrivacyError("delta and confidence are probabilities", remedy="choose them between 0 and 1")
        if self.trials < _FEWEST or self.releases < 1 or self.patients < 1:
            raise PrivacyError(
                f"{self.trials} trials of {self.releases} releases of {self.patients} patients tell nothing",
                remedy=f"take {_FEWEST} trials or more, a release and a patient at least",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What came out.

    Attributes:
        setting: What was audited.
        epsilon_claimed: Upper bound that the accountant states.
        epsilon_lower: Lower bound whatever the noise's distribution; 0 or more.
        epsilon_lower_gaussian: Lower bound for Gaussian noise, from `strength_lower`.
        strength_claimed: sqrt(releases) / noise.
        strength_lower: Lower bound on the strength; 0 or more.
    """

    setting: Setting
    epsilon_claimed: float
    epsilon_lower: float
    epsilon_lower_gaussian: float
    strength_claimed: float
    strength_lower: float

    @property
    def broken(self) -> bool:
        """Whether the mechanism tells more than is claimed."""
        return self.epsilon_lower > self.epsilon_claimed or self.strength_lower > self.strength_claimed


def audit(
    setting: Setting,
    mechanism: Callable[..., Released],
    *,
    randomness: RandomBits,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Audit:
    """Run a mechanism with and without the canary, and compare what can be told with what is claimed.

    Args:
        setting: What to audit.
        mechanism: `security.privacy.anchor_release.release`, or what takes its arguments.
        randomness: Where the noise comes from; of the operating system unless it is to be repeated.
        progress: Told trials done and trials in all.

    Raises:
        PrivacyError: If the mechanism refuses.
    """
    events = [Event(noise=setting.noise, rate=1.0, steps=setting.releases)]
    without, with_canary = _scores(setting, mechanism, randomness, progress)
    half = setting.trials // 2
    choosing, judging = (without[:half], with_canary[:half]), (without[half:], with_canary[half:])
    bounds = _Bounds(delta=setting.delta, error=(1.0 - setting.confidence) / _INTERVALS)
    chosen = np.unique(np.concatenate(choosing))
    cautious = _Bounds(delta=setting.delta, error=_CHOOSING_ERROR)
    best_epsilon = chosen[np.argmax(cautious.epsilon(*choosing, chosen))]
    middle = np.array([np.mean([scores.mean() for scores in choosing])])  # where a shift of Gaussian noise shows best
    strength_lower = max(0.0, float(bounds.strength(*judging, middle)[0]))
    return Audit(
        setting=setting,
        epsilon_claimed=accounting.epsilon(events, setting.delta),
        epsilon_lower=max(0.0, float(bounds.epsilon(*judging, best_epsilon[None])[0])),
        epsilon_lower_gaussian=gaussian.epsilon_of(strength_lower, setting.delta),
        strength_claimed=accounting.strength(events),
        strength_lower=strength_lower,
    )


def clopper_pearson(successes: npt.NDArray[np.int64], trials: int, error: float) -> tuple[Floats, Floats]:
    """Return the lower and the upper end of exact intervals; each end is wrong with probability `error` at most."""
    from scipy.special import betaincinv

    known = successes.astype(np.float64)
    lower = np.where(known > 0, betaincinv(np.maximum(known, 1), trials - known + 1, error), 0.0)
    upper = np.where(known < trials, betaincinv(known + 1, np.maximum(trials - known, 1), 1.0 - error), 1.0)
    return lower, upper


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bounds:
    """Lower bounds from scores, per threshold."""

    delta: float
    error: float

    def epsilon(self, without: Floats, with_canary: Floats, thresholds: Floats) -> Floats:
        """Bound epsilon by both directions of its definition: P(S) <= exp(epsilon) Q(S) + delta, and of complements."""
        false, true = self._rates(without, with_canary, thresholds)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = [np.log((true - self.delta) / false), np.log((1.0 - false - self.delta) / (1.0 - true))]
        first, second = (np.nan_to_num(value, nan=-math.inf, posinf=-math.inf) for value in found)
        return np.asarray(np.fmax(first, second))

    def strength(self, without: Floats, with_canary: Floats, thresholds: Floats) -> Floats:
        """Bound the strength of a Gaussian release."""
        from scipy.special import ndtri

        false, true = self._rates(without, with_canary, thresholds)
        with np.errstate(invalid="ignore"):
            found = ndtri(true) - ndtri(false)
        return np.asarray(np.nan_to_num(found, nan=-math.inf, posinf=-math.inf))

    def _rates(self, without: Floats, with_canary: Floats, thresholds: Floats) -> tuple[Floats, Floats]:
        """Return an upper bound on false positives and a lower bound on true positives."""
        false, true = (len(scores) - np.searchsorted(np.sort(scores), thresholds) for scores in (without, with_canary))
        return (
            clopper_pearson(false, len(without), self.error)[1],
            clopper_pearson(true, len(with_canary), self.error)[0],
        )


def _scores(
    setting: Setting,
    mechanism: Callable[..., Released],
    randomness: RandomBits,
    progress: Callable[[int, int], None],
) -> tuple[Floats, Floats]:
    """Return the attacker's scores without and with the canary, one per trial."""
    table, direction = _table(setting)
    found = np.zeros((2, setting.trials))
    for trial in range(setting.trials):
        for world in (0, 1):
            rows = slice(setting.patients + world)
            for _ in range(setting.releases):
                released = mechanism(
                    [level[rows] for level in table],
                    np.ones((setting.patients + world, _CLASSES), np.float32),
                    clip=setting.clip,
                    noise=setting.noise,
                    randomness=randomness,
                )
                found[world, trial] += float((released.raw * direction).sum())
        progress(trial + 1, setting.trials)
    return found[0], found[1]


def _table(setting: Setting) -> tuple[list[npt.NDArray[np.float32]], Floats]:
    """Return made-up patients, the canary last, and the direction of the canary's vector [class, value + 1]."""
    drawn = np.random.default_rng(0).standard_normal((setting.patients + 1, _CLASSES, sum(_CHANNELS)))
    drawn[-1] *= _BEYOND * max(1.0, setting.clip) / np.linalg.norm(drawn[-1])
    table = drawn.astype(np.float32)
    presence = np.full((_CLASSES, 1), VectorSpace(_CHANNELS, _CLASSES, None, 0).presence_scale)
    vector = np.concatenate([table[-1], presence], axis=1)
    return np.split(table, np.cumsum(_CHANNELS)[:-1], axis=2), vector / np.linalg.norm(vector)
