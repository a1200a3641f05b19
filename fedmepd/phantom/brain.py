"""The healthy brain: hemispheres with folded cortex, ventricles, deep grey nuclei, cerebellum and brainstem.

Everything is a signed distance in anatomical millimetres, so the same seed gives the same brain at every resolution
(folds widen when voxels are coarser than they are, so that some survive at 4 mm). A likeness for testing software,
not an atlas: sizes and places are those of an adult, gyri are not the named ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from fedmepd.phantom.fields import noise_cube, smooth_noise
from fedmepd.phantom.grid import FloatArray, Grid, Millimetres
from fedmepd.phantom.layers import Layer
from fedmepd.phantom.posture import Variation
from fedmepd.phantom.shapes import Points, coverage, cut, ellipsoid, joined, tube
from fedmepd.phantom.tissues import BrainTissue

FIELD_OF_VIEW: Millimetres = (155.0, 186.0, 155.0)
VARIATION = Variation(size=0.03, tilt_deg=3.0, warp_mm=2.2, warp_scale_mm=38.0)

_ROUND: Millimetres = (1.0, 1.0, 1.0)
_CUBE_REACH: Millimetres = (100.0, 100.0, 100.0)
_CUBE_STEP_MM = 2.5
_CORTEX_MM = 3.8
_LATERAL_VENTRICLE = (
    ((13.0, 33.0, 3.0), (9.5, 18.0, 11.0), (10.0, -8.0, 17.0), (19.0, -30.0, 9.0), (22.0, -50.0, 1.0)),
    (3.2, 6.0, 5.0, 6.5, 2.0),
)
_TEMPORAL_HORN = (((21.0, -30.0, 5.0), (30.0, -18.0, -14.0), (29.0, 8.0, -20.0)), (4.5, 2.5, 1.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Brain:
    """Signed distances of one brain, mm, positive inside; shape of the grid's box.

    Attributes:
        points: Anatomical coordinates.
        hull: What is left after skull stripping.
        pial: The folded surface of the cerebral cortex.
        cerebrum: The hemispheres before folding.
        cerebellum: Cerebellum with its folia.
        stem: Brainstem.
        ventricles: All ventricles.
        core: The part around the midline that no fissure divides.
        sulci: Distance to the nearest sheet of a sulcus, unsigned.
        voxel_mm: Largest voxel edge.
    """

    points: Points
    hull: FloatArray
    pial: FloatArray
    cerebrum: FloatArray
    cerebellum: FloatArray
    stem: FloatArray
    ventricles: FloatArray
    core: FloatArray
    sulci: FloatArray
    voxel_mm: float


def build_brain(points: Points, grid: Grid, rng: np.random.Generator) -> Brain:
    """Evaluate the anatomy of one brain.

    Args:
        points: Anatomical coordinates of the grid's voxels.
        grid: The sampling grid.
        rng: Source of folding and ventricle size.
    """
    side = points.mirrored()
    cerebellum = _cerebellum(side)
    hemispheres = np.minimum(_hemispheres(side), -cerebellum - np.float32(1.2))
    stem = joined(
        tube(side, path=((0, -14, -8), (0, -30, -68)), radii=(14, 9.5), flatten=_ROUND),
        ellipsoid(side, centre=(0, -14, -36), half_axes=(17, 13, 15)),
        blend_mm=4,
    )
    hull = joined(joined(hemispheres, cerebellum, blend_mm=9), stem, blend_mm=9) + np.float32(0.4)
    core = ellipsoid(side, centre=(0, -9, 0), half_axes=(41, 43, 27)) + np.float32(3) * smooth_noise(rng, grid, 11.0)
    sulci, depth_limit = _sulci(points, hemispheres, grid, rng)
    return Brain(
        points=points,
        hull=hull,
        pial=_pial(side, hemispheres, core, (sulci, depth_limit), grid.voxel_mm),
        cerebrum=hemispheres,
        cerebellum=cerebellum,
        stem=stem,
        ventricles=_ventricles(side, rng),
        core=core,
        sulci=sulci,
        voxel_mm=grid.voxel_mm,
    )


def brain_layers(brain: Brain) -> Iterator[Layer]:
    """Yield the healthy tissues of a brain, bottom first."""
    soft = brain.voxel_mm
    side = brain.points.mirrored()
    # At coarse sampling the ribbon is kept about one voxel thick, or it would vanish in partial volume.
    ribbon = np.float32(max(_CORTEX_MM, 0.75 * brain.voxel_mm))
    yield Layer(tissue=BrainTissue.CSF, cover=coverage(brain.hull, softness_mm=0.5 * soft))
    yield Layer(tissue=BrainTissue.GREY, cover=coverage(brain.pial, softness_mm=soft))
    yield Layer(tissue=BrainTissue.WHITE, cover=coverage(brain.pial - ribbon, softness_mm=soft))
    yield Layer(tissue=BrainTissue.GREY, cover=coverage(brain.cerebellum + _folia(side, brain), softness_mm=soft))
    tree = ellipsoid(side, centre=(18, -40, -37), half_axes=(20, 18, 13)) + 1.6 * _folia(side, brain)
    yield Layer(tissue=BrainTissue.WHITE, cover=coverage(tree, softness_mm=soft))
    yield Layer(tissue=BrainTissue.WHITE, cover=coverage(brain.stem, softness_mm=soft))
    for nucleus in _nuclei(side):
        yield Layer(tissue=BrainTissue.DEEP_GREY, cover=coverage(nucleus, softness_mm=soft))
    yield Layer(tissue=BrainTissue.CSF, cover=coverage(brain.ventricles, softness_mm=soft))
    for vessel in _vessels(side, brain):
        yield Layer(tissue=BrainTissue.VESSEL, cover=coverage(vessel, softness_mm=soft))


def _hemispheres(side: Points) -> FloatArray:
    # Egg-shaped from above: widest behind the middle.
    egg = Points(x=side.x / (np.float32(1) - np.float32(0.0013) * side.y), y=side.y, z=side.z)
    dome = ellipsoid(egg, centre=(0, 0, 4), half_axes=(65, 84, 64))
    base = side.z + np.float32(21) + np.float32(0.06) * side.y
    upper = cut(dome, base, blend_mm=7)
    temporal = ellipsoid(side, centre=(42, 2, -25), half_axes=(22, 41, 21))
    return joined(upper, temporal, blend_mm=3)


def _cerebellum(side: Points) -> FloatArray:
    return ellipsoid(side, centre=(20, -46, -39), half_axes=(33, 31, 24))


def _folia(side: Points, brain: Brain) -> FloatArray:
    # Fine parallel folds around the cerebellum's centre; they fade where voxels cannot carry them.
    angle = np.arctan2(side.z + np.float32(41), side.y + np.float32(38))
    period_rad = 0.21
    fade = min(1.0, 2.2 / brain.voxel_mm)
    folia: FloatArray = np.float32(1.0 * fade) * np.sin(angle * np.float32(2 * np.pi / period_rad)) - np.float32(0.6)
    return folia


def _sulci(points: Points, cerebrum: FloatArray, grid: Grid, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    # Sulci are sheets where a random field changes sign. The field depends on the direction from a line inside the
    # hemisphere more than on depth, so the sheets run inwards from the surface as real ones do.
    scale = max(8.5, 2.6 * grid.voxel_mm)
    cube = noise_cube(rng, _CUBE_REACH, scale, _CUBE_STEP_MM)
    slope = np.gradient(cube, _CUBE_STEP_MM)
    steepness = np.sqrt(slope[0] ** 2 + slope[1] ** 2 + slope[2] ** 2 + np.float32((0.55 / scale) ** 2))
    sheets = (cube / steepness).astype(np.float32)
    depth_limit = np.float32(16) + np.float32(5) * smooth_noise(rng, grid, 20.0)
    distance = np.full(points.x.shape, 50, dtype=np.float32)
    shell = (cerebrum > np.float32(-4)) & ((cerebrum < np.float32(26)) | (np.abs(points.x) < np.float32(24)))
    wiggle = smooth_noise(rng, grid, 9.0)[shell] * np.float32(3.0)
    x, y, z = points.x[shell] + wiggle, points.y[shell] - wiggle, points.z[shell] + wiggle
    along = np.clip(y, -45, 45) * np.float32(0.75)
    across = np.sign(x) * np.float32(20)
    offsets = (x - across, y - along, z - np.float32(2))
    radius = np.sqrt(offsets[0] ** 2 + offsets[1] ** 2 + offsets[2] ** 2) + np.float32(1)
    stretch = (np.float32(38) + np.float32(0.25) * radius) / radius
    places = [across + offsets[0] * stretch, along * np.float32(1.1) + offsets[1] * stretch, offsets[2] * stretch]
    index = [(place + half) / _CUBE_STEP_MM for place, half in zip(places, _CUBE_REACH, strict=True)]
    distance[shell] = np.abs(ndimage.map_coordinates(sheets, index, order=1, mode="nearest", output=np.float32))
    return distance, depth_limit


def _pial(
    side: Points,
    cerebrum: FloatArray,
    core: FloatArray,
    sulci: tuple[FloatArray, FloatArray],
    voxel_mm: float,
) -> FloatArray:
    gap = np.float32(max(1.0, 0.3 * voxel_mm))
    fissure = np.maximum(side.x, core) - gap
    outer = np.minimum(cerebrum - np.float32(0.6), fissure)
    # The lateral fissure rises towards the back; the insula is its floor.
    plane = np.abs(side.z + np.float32(7) - np.float32(0.42) * (np.float32(8) - side.y)) * np.float32(0.92)
    lateral = np.maximum(np.maximum(plane, np.float32(37) - side.x), np.abs(side.y - np.float32(2)) - np.float32(38))
    sheet, depth_limit = sulci
    # No sulcus runs into the core, however thin the brain is below it.
    folds = np.maximum(np.maximum(sheet, outer - depth_limit), core)
    pial: FloatArray = np.minimum(np.minimum(outer, lateral - np.float32(1.25) * gap), folds - np.float32(0.9) * gap)
    return pial


def _ventricles(side: Points, rng: np.random.Generator) -> FloatArray:
    swelling = np.float32(np.clip(rng.normal(1.6, 1.0), -0.3, 4.0))
    path, radii = _LATERAL_VENTRICLE
    lateral = tube(side, path=path, radii=radii, flatten=(1.15, 1, 1))
    horn = tube(side, path=_TEMPORAL_HORN[0], radii=_TEMPORAL_HORN[1], flatten=_ROUND)
    third = ellipsoid(side, centre=(0, -4, -2), half_axes=(2.3, 13, 10))
    fourth = ellipsoid(side, centre=(0, -33, -38), half_axes=(7, 4.5, 9))
    ventricles: FloatArray = np.maximum(np.maximum(joined(lateral, horn, blend_mm=2) + swelling, third), fourth)
    return ventricles


def _nuclei(side: Points) -> Iterator[FloatArray]:
    yield ellipsoid(side, centre=(11, -12, 0), half_axes=(9, 14.5, 12))  # thalamus
    yield tube(  # caudate: head beside the frontal horn, thinning along the body
        side, path=((14.5, 24, 3), (17, 4, 15), (20, -20, 17)), radii=(6.5, 4.0, 2.0), flatten=_ROUND
    )
    tilted = Points(x=side.x + np.float32(0.22) * side.y, y=side.y, z=side.z)
    yield ellipsoid(tilted, centre=(27, 4, -1), half_axes=(6.5, 18, 13))  # lentiform nucleus


def _vessels(side: Points, brain: Brain) -> Iterator[FloatArray]:
    thick = max(0.0, 0.35 * (brain.voxel_mm - 2.0))
    yield tube(  # superior sagittal sinus
        side, path=((0, 70, 42), (0, 30, 68), (0, -20, 69), (0, -68, 38)), radii=(1.8, 2.4, 2.8, 3.2), flatten=_ROUND
    ) + np.float32(thick)
    yield tube(  # middle cerebral artery in the lateral fissure
        side, path=((6, 12, -17), (26, 10, -14), (42, 0, -9), (54, -14, -4)), radii=(1.9, 1.8, 1.6, 1.2), flatten=_ROUND
    ) + np.float32(thick)
    yield tube(  # choroid plexus in the trigone
        side, path=((17, -25, 9), (21, -31, 6)), radii=(1.8, 2.6), flatten=_ROUND
    ) + np.float32(thick)
