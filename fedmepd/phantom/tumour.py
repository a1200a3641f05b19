"""Tumours: irregular cores with an enhancing rim around necrosis, and edema that follows white matter.

The plan (place, size, grade) is drawn before the anatomy, which gives way to the mass; the shape is grown in the
finished anatomy. Guarantees that edema stays out of ventricles and sulci and shuns cortex, that nothing crosses the
midline except through the core around the corpus callosum, and that the volumes are those of the plan as far as the
room allows. Biology ends there: growth is a threshold on a distance field with noise, not a model of infiltration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmepd.phantom.brain import Brain
from fedmepd.phantom.fields import smooth_noise
from fedmepd.phantom.grid import FloatArray, Grid, Millimetres
from fedmepd.phantom.layers import Layer
from fedmepd.phantom.posture import Mass
from fedmepd.phantom.shapes import Points, coverage
from fedmepd.phantom.tissues import BrainTissue

WITHOUT_ENHANCEMENT = 0.22
_SEVERAL_FOCI = 0.15
_WITH_SOLID_PART = 0.35
_FAR = np.float32(1e4)
_HALF_HEAD = np.array([65.0, 84.0, 60.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class TumourPlan:
    """What is to grow.

    Attributes:
        foci: Centres, mm; the first is the largest.
        enhancing: Whether the core has an enhancing part.
        solid: Whether part of an enhancing core is neither necrotic nor enhancing.
        whole_share: Volume of the whole tumour relative to the brain.
        core_share: Volume of the core relative to the whole tumour.
        rim_mm: Mean thickness of the enhancing rim.
        stretch: Growth per axis relative to the mean.
        push: Strength of the mass effect.
    """

    foci: tuple[Millimetres, ...]
    enhancing: bool
    solid: bool
    whole_share: float
    core_share: float
    rim_mm: float
    stretch: Millimetres
    push: float

    def masses(self) -> tuple[Mass, ...]:
        """Return what the anatomy must give way to."""
        radius = 62.0 * float(self.whole_share * self.core_share) ** (1 / 3) + 12.0
        return (Mass(centre=self.foci[0], radius_mm=radius, strength=self.push),)


def plan_tumour(rng: np.random.Generator) -> TumourPlan:
    """Draw place, size and grade of one patient's tumour."""
    enhancing = bool(rng.random() >= WITHOUT_ENHANCEMENT)
    first = _site(rng)
    foci = [first]
    if rng.random() < _SEVERAL_FOCI:
        step = rng.normal(size=3)
        step *= rng.uniform(24, 38) / np.sqrt((step**2).sum())
        x, y, z = (float(value) for value in (np.array(first) + step) * 0.9)
        foci.append((x, y, z))
    stretch = np.exp(np.clip(rng.standard_normal(3), -1.5, 1.5) * 0.14)
    return TumourPlan(
        foci=tuple(foci),
        enhancing=enhancing,
        solid=bool(rng.random() < _WITH_SOLID_PART),
        whole_share=float(np.clip(np.exp(rng.normal(np.log(0.06), 0.42)), 0.022, 0.12)),
        core_share=float(rng.uniform(0.22, 0.55) if enhancing else rng.uniform(0.4, 0.8)),
        rim_mm=float(rng.uniform(3.0, 6.0)),
        stretch=(float(stretch[0]), float(stretch[1]), float(stretch[2])),
        push=float(rng.uniform(0.08, 0.26)),
    )


def tumour_layers(
    plan: TumourPlan, brain: Brain, scanner: Points, grid: Grid, rng: np.random.Generator
) -> Iterator[Layer]:
    """Grow a tumour and yield its tissues, bottom first.

    Args:
        plan: What is to grow.
        brain: The anatomy it grows in.
        scanner: Unwarped coordinates, in which the plan's places are given.
        grid: The sampling grid.
        rng: Source of the irregularity.
    """
    reach = _reach(plan, scanner) + _midline_cost(plan, brain)
    # Knots about a centimetre apart give outlines with lobes of one to two centimetres.
    lobes = np.float32(4.5) * smooth_noise(rng, grid, 11.0)
    fingers = np.float32(6.5) * smooth_noise(rng, grid, 10.0)
    varying = smooth_noise(rng, grid, 8.0)
    volume = plan.whole_share * np.count_nonzero(brain.hull > 0)
    core = _core(plan, brain, reach + lobes, round(volume * plan.core_share))
    edema = _edema(brain, reach + fingers, core > 0, round(volume))
    yield Layer(tissue=BrainTissue.EDEMA, cover=coverage(edema, softness_mm=grid.voxel_mm + 1.5))
    yield from _core_layers(plan, core, varying, grid)


def _site(rng: np.random.Generator) -> Millimetres:
    # Mostly the white matter of the hemispheres, sometimes nearer to the cortex or the deep nuclei.
    outermost = 0.62 if rng.random() < 0.8 else 0.8  # noqa: PLR2004  share of deep tumours
    while True:
        unit = rng.uniform(-1, 1, size=3)
        place = unit * _HALF_HEAD + np.array([0.0, 0.0, 6.0])
        radius = float(np.sqrt((unit**2).sum()))
        if 0.25 < radius < outermost and abs(place[0]) > 15 and place[2] > -12:  # noqa: PLR2004  in the hemispheres
            return float(place[0]), float(place[1]), float(place[2])


def _reach(plan: TumourPlan, scanner: Points) -> FloatArray:
    nearest = None
    for lag, centre in enumerate(plan.foci):
        squared = np.zeros(np.broadcast_shapes(scanner.x.shape, scanner.y.shape, scanner.z.shape), dtype=np.float32)
        for values, middle, stretch in zip((scanner.x, scanner.y, scanner.z), centre, plan.stretch, strict=True):
            squared += np.square((values - np.float32(middle)) * np.float32(1 / stretch))
        distance = np.sqrt(squared, out=squared) + np.float32(5.0 * lag)
        nearest = distance if nearest is None else np.minimum(nearest, distance, out=nearest)
    if nearest is None:
        raise ValueError("a tumour needs at least one focus")
    return nearest


def _midline_cost(plan: TumourPlan, brain: Brain) -> FloatArray:
    beyond = np.maximum(brain.points.x * np.float32(-np.sign(plan.foci[0][0])), 0)
    cost: FloatArray = np.where(
        brain.core > 0, beyond * np.float32(0.7), beyond * np.float32(3) + np.float32(12) * (beyond > 0)
    )
    return cost


def _threshold(field: FloatArray, allowed: npt.NDArray[np.bool_], voxels: int) -> np.float32:
    values = field[allowed]
    if not values.size:
        return np.float32(-_FAR)
    rank = min(max(voxels, 1), values.size) - 1
    return np.float32(np.partition(values, rank)[rank])


def _core(plan: TumourPlan, brain: Brain, field: FloatArray, voxels: int) -> FloatArray:
    room = np.minimum(np.minimum(brain.hull - np.float32(1), -brain.ventricles), -brain.cerebellum)
    room = np.minimum(room, -brain.stem)
    smallest = 30 if plan.enhancing else 20
    core: FloatArray = np.minimum(_threshold(field, room > 0, max(voxels, smallest)) - field, room)
    return core


def _edema(brain: Brain, field: FloatArray, core: npt.NDArray[np.bool_], voxels: int) -> FloatArray:
    cortex = np.clip((np.float32(6) - brain.pial) * np.float32(1 / 6), 0, 1)
    cost = field + np.float32(13) * cortex
    cost[core] = -_FAR
    room = np.minimum(np.minimum(brain.pial, -brain.ventricles), np.minimum(-brain.cerebellum, -brain.stem))
    limit = _threshold(cost, (room > 0) | core, voxels)
    cost[core] = limit - np.float32(2)
    edema: FloatArray = np.minimum(limit - cost, np.where(core, np.float32(2), room))
    return edema


def _core_layers(plan: TumourPlan, core: FloatArray, varying: FloatArray, grid: Grid) -> Iterator[Layer]:
    soft = grid.voxel_mm
    if not plan.enhancing:
        yield Layer(tissue=BrainTissue.NON_ENHANCING, cover=coverage(core, softness_mm=soft + 1.0))
        return
    yield Layer(tissue=BrainTissue.ENHANCING, cover=coverage(core, softness_mm=soft))
    # The rim varies in thickness and is open in places; below a voxel it would drown in partial volume.
    rim = np.float32(max(plan.rim_mm, 1.05 * grid.voxel_mm)) * np.clip(
        np.float32(1.0) + np.float32(0.45) * varying, 0.15, 2.2
    )
    if plan.solid:
        sector = (varying - np.float32(1.1)) * np.float32(6)
        cover = coverage(np.minimum(core, sector), softness_mm=soft)
        yield Layer(tissue=BrainTissue.NON_ENHANCING, cover=cover)
    yield Layer(tissue=BrainTissue.NECROSIS, cover=coverage(core - rim, softness_mm=soft))
