"""Head and neck between the forehead and the sixth cervical vertebra, for CT and T1-weighted MR.

The four organs that are labelled (mandible, parotid glands, spinal cord, eyes) lie among what one sees around them:
skull and brain, orbits with fat, sinuses and airway, teeth, vertebrae, muscles in fat. Guarantees that the organs are
drawn after what they could be hidden by, so each is present at every resolution; has no lesions and no landmarks
beyond these. A likeness for testing software, not an atlas.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedmepd.phantom.fields import smooth_noise
from fedmepd.phantom.grid import FloatArray, Grid, Millimetres
from fedmepd.phantom.layers import Layer
from fedmepd.phantom.posture import Variation
from fedmepd.phantom.shapes import Points, coverage, cut, ellipsoid, joined, tube
from fedmepd.phantom.tissues import NeckTissue

FIELD_OF_VIEW: Millimetres = (168.0, 218.0, 178.0)
VARIATION = Variation(size=0.025, tilt_deg=2.5, warp_mm=1.6, warp_scale_mm=36.0)

_ROUND: Millimetres = (1.0, 1.0, 1.0)
# Floor of the skull from back to front: posterior, middle and anterior fossa.
_FLOOR_Y = (-110.0, -30.0, 15.0, 45.0, 110.0)
_FLOOR_Z = (-6.0, -3.0, 24.0, 62.0, 68.0)
_VERTEBRA_MM = 17.0
_FORAMEN_Z = -4.0


def body_surface(points: Points) -> FloatArray:
    """Return the signed distance to the skin, mm, positive inside."""
    side = points.mirrored()
    vault = ellipsoid(side, centre=(0, -8, 50), half_axes=(75, 93, 84))
    face = ellipsoid(side, centre=(0, 34, 8), half_axes=(61, 60, 62))
    jaw = ellipsoid(side, centre=(0, 34, -28), half_axes=(66, 62, 40))
    neck = tube(side, path=((0, -14, 8), (0, -20, -40), (0, -26, -120)), radii=(72, 62, 57), flatten=(1.0, 1.05, 1.0))
    nose = ellipsoid(side, centre=(0, 88, 14), half_axes=(12, 15, 18))
    head = joined(joined(vault, face, blend_mm=10), joined(jaw, neck, blend_mm=12), blend_mm=10)
    return joined(head, nose, blend_mm=6)


def neck_layers(points: Points, body: FloatArray, grid: Grid, rng: np.random.Generator) -> Iterator[Layer]:
    """Yield the tissues, bottom first.

    Args:
        points: Anatomical coordinates of the grid's voxels.
        body: Distance to the skin.
        grid: The sampling grid.
        rng: Source of muscle planes, gyri and lobules.
    """
    side = points.mirrored()
    soft = grid.voxel_mm
    sheets = np.abs(smooth_noise(rng, grid, 13.0)) * np.float32(8)
    folds = np.abs(smooth_noise(rng, grid, 9.0)) * np.float32(6)
    lobules = smooth_noise(rng, grid, 8.0)
    yield Layer(tissue=NeckTissue.FAT, cover=coverage(body, softness_mm=0.5 * soft))
    muscle = np.minimum(body - np.float32(4.5), sheets - np.float32(1.3))
    yield Layer(tissue=NeckTissue.MUSCLE, cover=coverage(muscle, softness_mm=soft))
    tongue = ellipsoid(side, centre=(0, 45, -26), half_axes=(24, 30, 17))
    yield Layer(tissue=NeckTissue.MUSCLE, cover=coverage(tongue, softness_mm=soft))
    for tissue, distance in _parts(side, points, folds, lobules, soft):
        yield Layer(tissue=tissue, cover=coverage(np.minimum(distance, body - np.float32(0.5)), softness_mm=soft))


_Part = tuple[NeckTissue, FloatArray]


def _parts(side: Points, points: Points, folds: FloatArray, lobules: FloatArray, voxel_mm: float) -> Iterator[_Part]:
    yield from _skull(side, folds)
    yield from _face(side)
    yield from _spine(side, points, voxel_mm)
    yield from _airways(side)
    yield from _vessels(side)
    yield from _mandible(side, voxel_mm)
    parotid = ellipsoid(side, centre=(58, -7, -15), half_axes=(10.5, 17, 24))
    yield NeckTissue.GLAND, parotid + np.float32(1.6) * lobules
    yield from _eyes(side, voxel_mm)


def _skull(side: Points, folds: FloatArray) -> Iterator[_Part]:
    vault = ellipsoid(side, centre=(0, -8, 52), half_axes=(69, 87, 76))
    floor = (side.z - np.interp(side.y, _FLOOR_Y, _FLOOR_Z).astype(np.float32)) * np.float32(0.75)
    cavity = cut(vault, floor + np.float32(5), blend_mm=6)
    yield NeckTissue.CORTICAL_BONE, cavity
    yield NeckTissue.MARROW, np.minimum(cavity - np.float32(1.8), np.float32(4.6) - cavity)
    yield NeckTissue.CSF, cavity - np.float32(6.2)
    yield NeckTissue.BRAIN, np.minimum(cavity - np.float32(8.5), folds - np.float32(0.7))
    # Petrous bone and mastoid: the dense wedge beside the brainstem.
    petrous = tube(side, path=((16, 0, 10), (51, -18, 5)), radii=(6, 9), flatten=_ROUND)
    yield NeckTissue.CORTICAL_BONE, petrous
    yield NeckTissue.BRAIN, tube(side, path=((0, -28, -8), (0, -12, 32)), radii=(7.5, 13), flatten=_ROUND)


def _face(side: Points) -> Iterator[_Part]:
    cheek = tube(side, path=((30, 66, 22), (54, 44, 18), (64, 8, 12)), radii=(5, 4.5, 3.5), flatten=_ROUND)
    yield NeckTissue.CORTICAL_BONE, cheek
    maxilla = ellipsoid(side, centre=(0, 56, 6), half_axes=(40, 29, 22))
    yield NeckTissue.MARROW, maxilla
    yield NeckTissue.CORTICAL_BONE, np.minimum(maxilla, np.float32(3) - maxilla)
    sinus = ellipsoid(side, centre=(24, 58, 9), half_axes=(12, 17, 14))
    yield NeckTissue.CORTICAL_BONE, sinus + np.float32(2.2)
    yield NeckTissue.AIR, sinus
    upper = tube(side, path=((0, 83, -12), (15, 76, -12), (26, 52, -10)), radii=(4.2, 4.2, 5), flatten=(1, 1, 0.7))
    yield NeckTissue.CORTICAL_BONE, upper
    lower = tube(side, path=((0, 80, -24), (15, 73, -24), (26, 50, -22)), radii=(3.6, 3.6, 4.4), flatten=(1, 1, 0.7))
    yield NeckTissue.CORTICAL_BONE, lower


def _spine(side: Points, points: Points, voxel_mm: float) -> Iterator[_Part]:
    below = np.float32(_FORAMEN_Z) - side.z
    canal = tube(side, path=((0, -28, 4), (0, -31, -40), (0, -33, -120)), radii=(10, 9.5, 9.5), flatten=(0.95, 1.05, 1))
    phase = np.abs(np.mod(points.z / np.float32(_VERTEBRA_MM), 1) - np.float32(0.5))
    # Bone except for a disc of about 4 mm between two vertebrae.
    height = np.minimum((np.float32(0.385) - phase) * np.float32(_VERTEBRA_MM), below)
    body = tube(side, path=((0, -10, 4), (0, -13, -40), (0, -15, -120)), radii=(10, 9.5, 10), flatten=(0.72, 1, 1))
    process = tube(side, path=((6, -20, -50), (27, -22, -50)), radii=(7, 4.5), flatten=(1, 1, 0.0))
    spinous = tube(side, path=((0, -42, -50), (0, -62, -50)), radii=(4.5, 4), flatten=(1, 1, 0.0))
    arch = np.maximum(np.maximum(canal + np.float32(4), process), np.maximum(spinous, body))
    bone = np.minimum(arch, height)
    yield NeckTissue.MUSCLE, np.minimum(body, below)
    yield NeckTissue.CORTICAL_BONE, bone
    yield NeckTissue.MARROW, bone - np.float32(1.8)
    yield NeckTissue.CSF, np.minimum(canal, below + np.float32(9))
    cord = tube(side, path=((0, -28, 4), (0, -31, -40), (0, -33, -120)), radii=(6.2, 6, 6), flatten=(0.88, 1.05, 1))
    yield NeckTissue.BRAIN, np.minimum(cord, below + np.float32(12))
    yield NeckTissue.CORD, np.minimum(cord + np.float32(max(0.0, 0.25 * (voxel_mm - 4))), below)


def _airways(side: Points) -> Iterator[_Part]:
    nose = ellipsoid(side, centre=(0, 66, 18), half_axes=(11, 30, 21))
    yield NeckTissue.AIR, np.minimum(nose, side.x - np.float32(1.4))
    turbinate = tube(side, path=((6, 78, 10), (6, 48, 10)), radii=(2.6, 3), flatten=(1, 1, 0.5))
    yield NeckTissue.MUSCLE, turbinate
    yield NeckTissue.AIR, ellipsoid(side, centre=(0, 26, 30), half_axes=(13, 11, 9))  # sphenoid sinus
    pharynx = ((0, 32, 14), (0, 14, 0), (0, 9, -30), (0, 10, -60), (0, 9, -120))
    yield NeckTissue.AIR, tube(side, path=pharynx, radii=(7, 8, 8, 6.5, 9), flatten=(0.75, 1.1, 1))
    yield NeckTissue.AIR, ellipsoid(side, centre=(0, 50, -9), half_axes=(20, 22, 2.4))  # above the tongue
    yield NeckTissue.AIR, tube(side, path=((50, -6, 10), (84, -10, 10)), radii=(3, 3.6), flatten=_ROUND)  # ear canal


def _vessels(side: Points) -> Iterator[_Part]:
    carotid = tube(side, path=((24, 2, 4), (27, -2, -40), (30, 0, -120)), radii=(2.8, 3.4, 4), flatten=_ROUND)
    jugular = tube(side, path=((30, -6, 2), (36, -8, -40), (40, -4, -120)), radii=(4, 5, 5.5), flatten=_ROUND)
    yield NeckTissue.VESSEL, np.maximum(carotid, jugular)


def _mandible(side: Points, voxel_mm: float) -> Iterator[_Part]:
    body = tube(
        side,
        path=((0, 82, -40), (19, 75, -40), (38, 44, -37), (49, 16, -31)),
        radii=(6.2, 6, 6, 5.8),
        flatten=(1, 1, 0.5),
    )
    ramus = tube(side, path=((49, 14, -30), (52, 6, -4), (53, 1, 11)), radii=(5.2, 4.6, 4.6), flatten=(1, 0.48, 1))
    bone = joined(body, ramus, blend_mm=3)
    yield NeckTissue.MANDIBLE, bone
    # The cortex keeps about half a voxel, or marrow alone would be left of it at coarse sampling.
    yield NeckTissue.MANDIBLE_MARROW, bone - np.float32(max(2.2, 0.5 * voxel_mm))


def _eyes(side: Points, voxel_mm: float) -> Iterator[_Part]:
    orbit = ellipsoid(side, centre=(33, 56, 40), half_axes=(20, 29, 18))
    yield NeckTissue.CORTICAL_BONE, np.minimum(orbit + np.float32(2.6), np.float32(73) - side.y)
    yield NeckTissue.FAT, orbit
    nerve = tube(side, path=((32, 56, 40), (15, 28, 38)), radii=(2.4, 2.4), flatten=_ROUND)
    yield NeckTissue.BRAIN, nerve
    for offset in ((12, 0), (-12, 0), (0, 12), (0, -12)):
        start: Millimetres = (33.0 + offset[0], 62.0, 40.0 + offset[1])
        yield NeckTissue.MUSCLE, tube(side, path=(start, (18, 32, 38)), radii=(2, 2), flatten=_ROUND)
    ball = ellipsoid(side, centre=(33, 67, 40), half_axes=(12.2, 12.4, 12.2))
    yield NeckTissue.MUSCLE, ball + np.float32(1.2)  # sclera
    yield NeckTissue.VITREOUS, ball
    lens = ellipsoid(side, centre=(33, 75, 40), half_axes=(5, max(2.6, 0.6 * voxel_mm), 5))
    yield NeckTissue.LENS, np.minimum(lens, ball - np.float32(0.5))
