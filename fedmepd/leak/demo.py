"""The demonstration: one round on phantoms, and one attack on three things that a coordinator may see of it.

- *plain*: a site's own contribution, what is uploaded without secure aggregation;
- *masked*: the same integers under the masks of SPEC 10.6, what is uploaded with it;
- *sum*: the sum over all sites, what secure aggregation opens.

Evidence is computed once and used for all three, so nothing but the observation differs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float

from fedmepd.aggregation import SCALARS, Accumulator, Contribution
from fedmepd.compute import Backend
from fedmepd.layout import COMMON
from fedmepd.leak.chance import Area, area
from fedmepd.leak.membership import Evidence, decode, gather_evidence
from fedmepd.leak.scene import Progress, Scene, Setup, stage
from fedmepd.seeds import seed_of

PLAIN, MASKED, SUM = "plain", "masked", "sum"
DRAWS = 25


@runtime_checkable
class Mask(Protocol):
    """Secure aggregation as the demonstration sees it."""

    def __call__(self, contributions: Sequence[Contribution], draw: int) -> Sequence[Contribution]:
        """Return what the sites send instead, with fresh keys for each draw."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the attack reached against one observation.

    Attributes:
        name: `plain`, `masked` or `sum`.
        scores: Of every candidate of every site.
        area: Area under the ROC curve.
        patients: What the observation says of the number of training patients, per observed vector.
    """

    name: str
    scores: Float[np.ndarray, " candidate"]
    area: Area
    patients: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """The result.

    Attributes:
        setup: How large the demonstration was.
        trained: Whether each candidate trained, in the order of the scores.
        views: Plain, masked, sum.
        draws: Area under masks with other keys, once per draw.
        values: 32-bit integers that a site sends.
        seconds: Wall-clock time.
    """

    setup: Setup
    trained: Bool[np.ndarray, " candidate"]
    views: tuple[View, ...]
    draws: Float[np.ndarray, " draw"]
    values: int
    seconds: float

    def view(self, name: str) -> View:
        """Return a view by name."""
        return next(view for view in self.views if view.name == name)


def demonstrate(
    setup: Setup, mask: Mask, folder: Path, backend: Backend, progress: Progress, *, draws: int = DRAWS
) -> Leak:
    """Play one round and attack it.

    Args:
        setup: How large.
        mask: Masks the contributions.
        folder: For the patients' files; must be empty or absent.
        backend: Where to compute.
        progress: Called with what is done, steps done, and steps in all.
        draws: Under how many different masks the masked vectors are attacked.
    """
    started = time.perf_counter()
    scene = stage(setup, folder, backend, progress)
    evidence = _gather(scene, backend, progress)
    judge = _Judge(scene=scene, evidence=evidence)
    plain = [hospital.contribution for hospital in scene.hospitals]
    masked, areas = mask(plain, 0), []
    for draw in range(draws):
        progress("masking", draw, draws)
        areas.append(judge.area(judge.scores(mask(plain, draw))).area)
    progress("masking", draws, draws)
    return Leak(
        setup=setup,
        trained=judge.trained,
        views=(judge.view(PLAIN, plain), judge.view(MASKED, masked), judge.view(SUM, _summed(plain, scene))),
        draws=np.array(areas),
        values=sum(len(vector) for vector in plain[0].vectors.values()),
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """Applies the one attack to whatever is seen of the round, and knows who trained."""

    scene: Scene
    evidence: tuple[Evidence, ...]

    @property
    def trained(self) -> npt.NDArray[np.bool_]:
        return np.concatenate([found.trained for found in self.evidence])

    def scores(self, seen: Sequence[Contribution]) -> npt.NDArray[np.float64]:
        """Score the candidates of every site against what is seen of that site, sites in order."""
        rules = self.scene.rules
        pairs = zip(self.evidence, seen, strict=True)
        return np.concatenate([found.scores(decode(s.vectors, rules, found.modalities)) for found, s in pairs])

    def area(self, scores: npt.NDArray[np.float64]) -> Area:
        return area(scores, self.trained, seed=seed_of("demo-leak bootstrap", self.scene.spec.plan.run.seed))

    def view(self, name: str, seen: Sequence[Contribution]) -> View:
        scores = self.scores(seen)
        return View(
            name=name,
            scores=scores,
            area=self.area(scores),
            patients=tuple(dict.fromkeys(self._patients(contribution) for contribution in seen)),
        )

    def _patients(self, contribution: Contribution) -> float:
        """Read the number of training patients where a contribution carries it."""
        scalars = contribution.vectors[COMMON][-len(SCALARS) :]
        return float(self.scene.rules.formats.scalar.decode(scalars)[SCALARS.index("samples")])


def _gather(scene: Scene, backend: Backend, progress: Progress) -> tuple[Evidence, ...]:
    everybody = sum(len(hospital.candidates) for hospital in scene.hospitals)
    asked = count(1)
    progress("testing candidates", 0, everybody)
    return tuple(
        gather_evidence(scene, hospital, backend, lambda: progress("testing candidates", next(asked), everybody))
        for hospital in scene.hospitals
    )


def _summed(contributions: Sequence[Contribution], scene: Scene) -> list[Contribution]:
    """Return, for every site, the sum over all sites in place of its own contribution."""
    total = Accumulator(scene.rules.layout)
    for contribution in contributions:
        total.add(contribution)
    return [Contribution(site=contribution.site, vectors=total.sums) for contribution in contributions]
