"""What one patient adds to a private anchor release: one vector of integers of bounded length (SPEC 14.2 to 14.4).

Guarantees that the sum of the squares of a vector's integers is at most `GRID` squared, whatever the patient, and that
the vector depends on this patient alone, to the last bit. The second is why sums of binary64 numbers are made by
`math.fsum`, which rounds once: a matrix product may round a row differently when another row is there or not, and then
one patient more would change other patients' integers, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from security.errors import PrivacyError

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
GRID = 1 << 24  # the clip, in steps of the grid


class VectorSpace:
    """How the prototypes of a patient are laid out in a vector [class, value + 1], and how anchors come back from it.

    Of each class there are the values of all levels, or their projection, and last the presence.

    Args:
        channels: Of each level.
        classes: Number of classes.
        dimensions: Values per class after a public random projection; None, or as many as there are: no projection.
        seed_public: What the projections follow from; everybody may know it, and it must not depend on patients.

    Raises:
        PrivacyError: If there is no room for a value.
    """

    def __init__(self, channels: Sequence[int], classes: int, dimensions: int | None, seed_public: int) -> None:
        self._ends = [0, *accumulate(channels)]
        whole = self._ends[-1]
        if classes < 1 or whole < 1 or (dimensions is not None and dimensions < 1):
            raise PrivacyError(
                f"{classes} classes of {whole} values in {dimensions} dimensions hold nothing", remedy="give one each"
            )
        self._bases: tuple[Floats, ...] | None = None
        self.values = whole
        if dimensions is not None and dimensions < whole:
            self.values = dimensions
            self._bases = tuple(projection(whole, dimensions, seed_public, index) for index in range(classes))

    @property
    def presence_scale(self) -> float:
        """What a class that the patient shows has in the last place, before clipping: the fourth root of the values.

        If values are about 1 in size, this makes the error of an anchor smallest (SPEC 14.2).
        """
        return float(self.values**0.25)

    def vector(self, prototypes: Floats, present: npt.NDArray[np.bool_], clip: float) -> Integers:
        """Return a patient's vector on the grid [class, value + 1].

        Args:
            prototypes: Of all levels [class, channel]; finite.
            present: Which classes the patient shows [class]; of the others nothing is taken.
            clip: Largest length; above 0. A longer vector is shortened as a whole, presence and all.
        """
        raw = np.zeros((len(present), self.values + 1))
        for index in np.flatnonzero(present).tolist():
            raw[index, :-1] = self._reduced(prototypes[index], index)
            raw[index, -1] = self.presence_scale
        length = math.sqrt(math.fsum((raw * raw).ravel().tolist()))
        return _shortened(np.trunc(raw * (GRID / max(length, clip))).astype(np.int64))

    def restore(self, means: Floats) -> tuple[npt.NDArray[np.float32], ...]:
        """Return the levels [class, channel] from means [class, value]; a projection comes back by its transpose."""
        if self._bases is not None:
            means = np.stack([basis @ mean for basis, mean in zip(self._bases, means, strict=True)])
        pairs = zip(self._ends, self._ends[1:], strict=False)
        return tuple(means[:, begin:end].astype(np.float32) for begin, end in pairs)

    def _reduced(self, values: Floats, index: int) -> Floats | list[float]:
        if self._bases is None:
            return values
        return [math.fsum(products) for products in (self._bases[index].T * values).tolist()]


def projection(values: int, dimensions: int, seed_public: int, index: int) -> Floats:
    """Return orthonormal columns [value, dimension] in a random direction, the same for the same seed and class."""
    drawn = np.random.default_rng([seed_public, index]).standard_normal((values, dimensions))
    return np.asarray(np.linalg.qr(drawn).Q)


def _shortened(vector: Integers) -> Integers:
    """Undo what rounding of the length may have added: a step towards zero everywhere, until it fits."""
    while int((vector * vector).sum()) > GRID * GRID:
        vector = vector - np.sign(vector)
    return vector
