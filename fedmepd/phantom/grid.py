"""The sampling grid of a phantom: voxels of any shape laid over a head of natural size, in millimetres.

Axes are RAS: the first coordinate grows to the right, the second to the front, the third upwards; the origin is the
centre of the volume. Voxels are isotropic unless the asked shape has so few slices that they must be more than twice
as thick as the plane's voxels, as in a thick-slice acquisition. Guarantees that the head fits whatever the shape; does
not choose a shape that uses the voxels well (a head is longer than wide: 40x48x40 wastes less than 48x48x48).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedmepd.errors import PhantomError

FloatArray = npt.NDArray[np.float32]
Millimetres = tuple[float, float, float]

SMALLEST_AXIS = 16
LARGEST_AXIS = 512
_THICK_SLICE_RATIO = 2.0


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A box of voxel centres around the origin.

    Not slotted: the sampled axes are cached on first use.

    Attributes:
        shape: Voxels per axis of the whole volume.
        spacing: Voxel size per axis, mm.
        reach: Half size of the box that the head never leaves, mm; work is done inside it only.
    """

    shape: tuple[int, int, int]
    spacing: Millimetres
    reach: Millimetres

    @property
    def voxel_mm(self) -> float:
        """The largest voxel edge: what a structure needs to survive sampling."""
        return max(self.spacing)

    @cached_property
    def box(self) -> tuple[slice, slice, slice]:
        """The part of the volume that lies within reach."""
        slices = []
        for count, step, reach in zip(self.shape, self.spacing, self.reach, strict=True):
            middle = (count - 1) / 2
            first = max(0, int(np.ceil(middle - reach / step)))
            last = min(count - 1, int(np.floor(middle + reach / step)))
            slices.append(slice(first, last + 1))
        return slices[0], slices[1], slices[2]

    @cached_property
    def axes(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Coordinates of the voxel centres inside the box along each axis, mm."""
        axes = [
            ((np.arange(part.start, part.stop) - (count - 1) / 2) * step).astype(np.float32)
            for part, count, step in zip(self.box, self.shape, self.spacing, strict=True)
        ]
        return axes[0], axes[1], axes[2]

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """The 4x4 matrix from voxel indices to RAS millimetres, origin at the centre of the volume."""
        matrix = np.diag([*self.spacing, 1.0])
        matrix[:3, 3] = [-(count - 1) / 2 * step for count, step in zip(self.shape, self.spacing, strict=True)]
        return matrix


def fit_grid(shape: tuple[int, int, int], *, field_of_view: Millimetres) -> Grid:
    """Lay a grid of the given shape over a field of view.

    Args:
        shape: Voxels per axis, 16 to 512 each.
        field_of_view: What must be inside the volume, mm per axis.

    Returns:
        The grid with the smallest voxels that cover the field of view.

    Raises:
        PhantomError: If an axis has too few or too many voxels.
    """
    if len(shape) != len(field_of_view) or not all(SMALLEST_AXIS <= count <= LARGEST_AXIS for count in shape):
        raise PhantomError(
            f"size {'x'.join(str(count) for count in shape)} is out of range",
            remedy=f"use three axes of {SMALLEST_AXIS} to {LARGEST_AXIS} voxels each",
        )
    needed = [extent / count for extent, count in zip(field_of_view, shape, strict=True)]
    plane, every = max(needed[:2]), max(needed)
    in_plane = plane if every > _THICK_SLICE_RATIO * plane else every
    reach = (field_of_view[0] / 2, field_of_view[1] / 2, field_of_view[2] / 2)
    return Grid(shape=shape, spacing=(in_plane, in_plane, every), reach=reach)
