"""Tissues and their signal per modality: what makes a sub-region visible in one sequence and not in another.

Signals are relative to 1.0 for the brightest normal tissue of an MR sequence; CT signals are (HU + 1024) / 1000, which
is how scanners store CT before the rescale intercept, so that air outside the body can be exactly 0. The head-and-neck
MR is T1-weighted: fat and marrow bright, muscle grey, cerebrospinal fluid and the vitreous body dark, cortical bone
and air without signal. The numbers are plausible, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from fedmepd.phantom.grid import FloatArray


class BrainTissue(IntEnum):
    """What a voxel of a brain phantom is made of; the order is that of painting."""

    OUTSIDE = 0
    CSF = 1
    GREY = 2
    WHITE = 3
    DEEP_GREY = 4
    VESSEL = 5
    EDEMA = 6
    NON_ENHANCING = 7
    NECROSIS = 8
    ENHANCING = 9


class NeckTissue(IntEnum):
    """What a voxel of a head-and-neck phantom is made of."""

    OUTSIDE = 0
    FAT = 1
    MUSCLE = 2
    CORTICAL_BONE = 3
    MARROW = 4
    MANDIBLE = 5
    MANDIBLE_MARROW = 6
    BRAIN = 7
    CSF = 8
    CORD = 9
    GLAND = 10
    VITREOUS = 11
    LENS = 12
    AIR = 13
    VESSEL = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueTable:
    """Signals, texture and labels of one kind of phantom.

    Attributes:
        signals: Modality to signal per tissue, in canonical modality order.
        texture: Relative deviation of the signal inside a tissue.
        classes: Class index of the task per tissue.
        label_values: Raw label value in files per class index.
        reconstructed: Modalities whose numbers have an absolute scale (CT): no gain, bias field or Rician noise.
    """

    signals: MappingProxyType[str, FloatArray]
    texture: FloatArray
    classes: npt.NDArray[np.uint8]
    label_values: npt.NDArray[np.uint8]
    reconstructed: frozenset[str]


def _row(*values: float) -> FloatArray:
    return np.array(values, dtype=np.float32)


BRAIN_TABLE = TissueTable(
    signals=MappingProxyType(
        {  #             out  csf   grey  white deep  vess  edema nonen necro enhan
            "flair": _row(0, 0.13, 0.62, 0.46, 0.54, 0.20, 0.96, 0.80, 0.58, 0.68),
            "t1ce": _row(0, 0.17, 0.46, 0.70, 0.53, 1.20, 0.57, 0.46, 0.28, 1.32),
            "t1": _row(0, 0.17, 0.46, 0.74, 0.55, 0.32, 0.61, 0.47, 0.36, 0.43),
            "t2": _row(0, 1.00, 0.58, 0.40, 0.48, 0.25, 0.82, 0.76, 0.86, 0.72),
        }
    ),
    texture=_row(0, 0.03, 0.03, 0.025, 0.025, 0.05, 0.07, 0.08, 0.12, 0.10),
    classes=np.array([0, 0, 0, 0, 0, 0, 2, 1, 1, 3], dtype=np.uint8),
    label_values=np.array([0, 1, 2, 4], dtype=np.uint8),
    reconstructed=frozenset(),
)

NECK_TABLE = TissueTable(
    signals=MappingProxyType(
        {  #          out  fat   musc  bone  marr  mand  mmar  brain csf   cord  gland vitr  lens  air   vess
            "ct": _row(0, 0.92, 1.08, 2.10, 1.35, 2.40, 1.50, 1.06, 1.03, 1.06, 1.01, 1.03, 1.10, 0.03, 1.07),
            "mr": _row(0, 1.00, 0.40, 0.08, 0.75, 0.08, 0.72, 0.50, 0.17, 0.47, 0.66, 0.20, 0.38, 0.03, 0.12),
        }
    ),
    texture=_row(0, 0.04, 0.03, 0.04, 0.06, 0.03, 0.06, 0.03, 0.02, 0.02, 0.06, 0.02, 0.02, 0.0, 0.03),
    classes=np.array([0, 0, 0, 0, 0, 1, 1, 0, 0, 3, 2, 4, 4, 0, 0], dtype=np.uint8),
    label_values=np.array([0, 1, 2, 3, 4], dtype=np.uint8),
    reconstructed=frozenset({"ct"}),
)
