"""One phantom patient: a pure function of kind, shape, seed and institution.

Guarantees the same arrays for the same arguments (same numpy and scipy builds and instruction set), whatever else the
process does. Seed decides anatomy, disease and noise; institution decides the scanner alone, so the same seed at two
institutions is the same patient scanned twice. Makes arrays; `fedmepd.phantom.cohort` writes files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from fedmepd.errors import PhantomError
from fedmepd.phantom import brain, head_neck
from fedmepd.phantom.grid import FloatArray, Grid, Millimetres, fit_grid
from fedmepd.phantom.layers import Layer, paint
from fedmepd.phantom.posture import place
from fedmepd.phantom.scanner import Ideal, Sequence, acquire, scanner_of
from fedmepd.phantom.tissues import BRAIN_TABLE, NECK_TABLE, BrainTissue, TissueTable
from fedmepd.phantom.tumour import plan_tumour, tumour_layers

Kind = Literal["brain", "head-neck"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Number = TypeVar("Number", bound=np.generic)

_TABLES: dict[Kind, TissueTable] = {"brain": BRAIN_TABLE, "head-neck": NECK_TABLE}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomPatient:
    """Images and truth of one patient; all arrays have the asked shape, axes in RAS order.

    Attributes:
        images: Modality to float32 image of whole numbers that fit int16; 0 exactly outside the head.
        label: Class index of the task per voxel.
        tissues: What each voxel is made of: a `BrainTissue` or `NeckTissue` number.
        spacing: Voxel size, mm.
        affine: 4x4 matrix from voxel indices to millimetres.
        has_enhancement: Whether any voxel is enhancing tumour; False for head-neck.
    """

    images: dict[str, FloatArray]
    label: npt.NDArray[np.uint8]
    tissues: npt.NDArray[np.uint8]
    spacing: Millimetres
    affine: npt.NDArray[np.float64]
    has_enhancement: bool


def table_of(kind: str) -> TissueTable:
    """Return signals and labels of a kind of phantom.

    Raises:
        PhantomError: If there is no such kind.
    """
    for known, table in _TABLES.items():
        if known == kind:
            return table
    raise PhantomError(f"no phantom of kind {kind!r}", remedy=f"use one of: {', '.join(KINDS)}")


def field_of_view_of(kind: Kind) -> Millimetres:
    """Return what a volume of this kind must cover, mm per axis."""
    return brain.FIELD_OF_VIEW if kind == "brain" else head_neck.FIELD_OF_VIEW


def make_patient(kind: Kind, *, shape: tuple[int, int, int], seed: int, institution: int = 0) -> PhantomPatient:
    """Make one patient.

    Args:
        kind: `brain` (a glioma in four MR sequences) or `head-neck` (organs at risk in CT and MR).
        shape: Voxels per axis, 16 to 512 each; the head keeps its natural size, the voxels change.
        seed: The patient, 0 or more.
        institution: The scanner, 0 or more.

    Raises:
        PhantomError: If an argument is out of range.
    """
    table = table_of(kind)
    for name, number in (("seed", seed), ("institution", institution)):
        if number < 0:
            raise PhantomError(f"{name} {number} is negative", remedy="use 0 or more")
    scanner = scanner_of(institution, table)
    make = _brain_scan if kind == "brain" else _neck_scan
    scan = make(shape, seed, scanner, table)
    return PhantomPatient(
        images={name: _whole(part, scan.grid, np.float32) for name, part in scan.stored.items()},
        label=_whole(table.classes[scan.tissues], scan.grid, np.uint8),
        tissues=_whole(scan.tissues, scan.grid, np.uint8),
        spacing=scan.grid.spacing,
        affine=scan.grid.affine,
        has_enhancement=kind == "brain" and bool((scan.tissues == BrainTissue.ENHANCING).any()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scan:
    grid: Grid
    stored: dict[str, npt.NDArray[np.int16]]
    tissues: npt.NDArray[np.uint8]


def _brain_scan(shape: tuple[int, int, int], seed: int, scanner: Mapping[str, Sequence], table: TissueTable) -> _Scan:
    grid = fit_grid(shape, field_of_view=field_of_view_of("brain"))
    posture, folding, disease, growth, noise = _streams(seed, 5)
    plan = plan_tumour(disease)
    points, straight = place(grid, posture, brain.VARIATION, masses=plan.masses())
    anatomy = brain.build_brain(points, grid, folding)
    layers = chain(brain.brain_layers(anatomy), tumour_layers(plan, anatomy, straight, grid, growth))
    return _scan(layers, anatomy.hull > 0, grid, scanner, table, noise)


def _neck_scan(shape: tuple[int, int, int], seed: int, scanner: Mapping[str, Sequence], table: TissueTable) -> _Scan:
    grid = fit_grid(shape, field_of_view=field_of_view_of("head-neck"))
    posture, build, noise = _streams(seed, 3)
    points, _ = place(grid, posture, head_neck.VARIATION)
    body = head_neck.body_surface(points)
    return _scan(head_neck.neck_layers(points, body, grid, build), body > 0, grid, scanner, table, noise)


def _scan(
    layers: Iterable[Layer],
    inside: npt.NDArray[np.bool_],
    grid: Grid,
    scanner: Mapping[str, Sequence],
    table: TissueTable,
    rng: np.random.Generator,
) -> _Scan:
    signals = {modality: sequence.signals for modality, sequence in scanner.items()}
    images, tissues = paint(layers, signals, inside.shape)
    tissues *= inside
    ideal = Ideal(tissues=tissues, inside=inside, texture=table.texture)
    return _Scan(grid=grid, stored=acquire(images, ideal, scanner, grid, rng), tissues=tissues)


def _streams(seed: int, count: int) -> list[np.random.Generator]:
    # Separate streams: drawing more for one purpose never changes another.
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(count)]


def _whole(part: npt.NDArray[Any], grid: Grid, dtype: type[Number]) -> npt.NDArray[Number]:
    volume = np.zeros(grid.shape, dtype=dtype)
    volume[grid.box] = part
    return volume
