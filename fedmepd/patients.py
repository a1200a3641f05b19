"""A member's patients, prepared on demand: a sequence that keeps what was used last within a memory budget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from fedmepd.cohorts import Case, PreparedCase, Settings, prepare_case
from fedmepd.errors import CohortError

_BUDGET_BYTES = 1 << 30


class Patients(Sequence[PreparedCase]):
    """Prepared cases by position.

    Args:
        cases: What to prepare.
        modalities: Which images, in canonical order.
        settings: How.
        cache_dir: Disk cache, or None to prepare anew whenever a case left the memory.
        budget_bytes: Memory for prepared cases.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        modalities: tuple[str, ...],
        settings: Settings,
        cache_dir: Path | None,
        *,
        budget_bytes: int = _BUDGET_BYTES,
    ) -> None:
        self.cases, self.modalities = tuple(cases), modalities
        self._settings, self._cache_dir, self._budget = settings, cache_dir, budget_bytes
        self._kept: OrderedDict[int, PreparedCase] = OrderedDict()

    @property
    def patient_ids(self) -> tuple[str, ...]:
        """The patient of each case."""
        return tuple(case.patient_id for case in self.cases)

    def __len__(self) -> int:
        return len(self.cases)

    @overload
    def __getitem__(self, index: int) -> PreparedCase: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PreparedCase]: ...
    def __getitem__(self, index: int | slice) -> PreparedCase | Sequence[PreparedCase]:
        """Return a prepared case; a slice is a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0 or index >= len(self.cases):
            raise IndexError(index)
        if index not in self._kept:
            self._kept[index] = prepare_case(self.cases[index], self.modalities, self._settings, self._cache_dir)
        self._kept.move_to_end(index)
        while len(self._kept) > 1 and sum(_bytes(case) for case in self._kept.values()) > self._budget:
            self._kept.popitem(last=False)
        return self._kept[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberPatients:
    """A member's patients by what they are for."""

    train: Patients
    validate: Patients
    test: Patients


def check_trainable(member: str, patients: Patients, crop: int, *, pad: bool) -> None:
    """Refuse patients that are smaller than the training crop.

    Whether a member refuses tells of such a patient, and is taken to be public (SPEC 15.6).

    Raises:
        CohortError: Naming the case, its size and the largest crop that fits.
    """
    for case in patients:
        shape = tuple(case.image.shape[1:])
        if min(shape) < crop and not pad:
            size = "x".join(str(n) for n in shape)
            raise CohortError(
                f"member {member!r}, case {case.case_id!r}: brain of {size} voxels is smaller than the crop of {crop}",
                remedy=f"set training.crop to at most {max(16, min(shape) // 8 * 8)}, or data.pad = true",
            )


def _bytes(case: PreparedCase) -> int:
    return case.image.nbytes + case.brain.nbytes + (0 if case.label is None else case.label.nbytes)
