"""Summation in clear: the coordinator sees every site's integers and checks them.

Inputs are read, checked and added a window at a time, segment by segment: memory holds the sum of one segment and one
window, however many sites there are. Every input has its segments in the layout's order, so each is read once from
front to back. Secure aggregation is another adapter of the same port (`secure_sum`).
The sums are those of `fedmepd.aggregation.Accumulator`; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coordinator.errors import RefusedError
from coordinator.ports import Input
from fedmepd import durable
from fedmepd.aggregation import Quantisation, parts_of, vector_length
from fedmepd.fixed_point import FixedPoint
from fedmepd.layout import Layout, Segment

WINDOW = 1 << 17  # words; 512 KiB stay in a core's cache between check and addition
WORD = 4


class UnfitInputError(RefusedError):
    """An input that must not be added.

    Args:
        site: Whose.
        problem: What is wrong with it.
    """

    def __init__(self, site: str, problem: str) -> None:
        super().__init__(f"the input of {site} is refused: {problem}")
        self.site = site


class ClearSummation:
    """Adds inputs in clear."""

    def sum(self, layout: Layout, formats: Quantisation, inputs: Sequence[Input], out: Path) -> Mapping[str, int]:
        """Add inputs segment by segment and write the sum (see `ports.Summation`)."""
        for found in inputs:
            check_length(layout, found)
        contributors: dict[str, int] = {}
        with ExitStack() as stack, durable.replacing(out) as target:
            files = [(found, stack.enter_context(found.path.open("rb", buffering=0))) for found in inputs]
            for segment in layout.segments:
                total = np.zeros(vector_length(segment), np.uint32)
                for found, file in files:
                    if segment in layout.for_member(found.modalities):
                        _add(segment, formats, file, total, found.site)
                        contributors[segment.name] = contributors.get(segment.name, 0) + 1
                target.write(total.astype("<u4", copy=False).data)
        return contributors


def check_length(layout: Layout, found: Input) -> None:
    """Check that an input is as long as the layout says.

    Raises:
        UnfitInputError: If it is not.
    """
    wanted = WORD * sum(vector_length(segment) for segment in layout.for_member(found.modalities))
    size = found.path.stat().st_size
    if size != wanted:
        raise UnfitInputError(found.site, f"it has {size} bytes, the layout wants {wanted}")


def _add(segment: Segment, formats: Quantisation, file: FileIO, total: npt.NDArray[np.uint32], site: str) -> None:
    """Add one segment of one input."""
    window = np.empty(WINDOW, "<u4")
    for start, stop, form in windows(segment, formats):
        words = window[: stop - start]
        if file.readinto(words.data) != words.nbytes:
            raise UnfitInputError(site, "it ended early")
        most = int(form.clip * form.scale) + 1
        signed = words.view(np.int32)
        if int(signed.max()) > most or int(signed.min()) < -most:
            raise UnfitInputError(site, f"segment {segment.name!r} holds a value outside of its range")
        np.add(total[start:stop], words, out=total[start:stop])


def windows(segment: Segment, formats: Quantisation) -> Iterator[tuple[int, int, FixedPoint]]:
    """Yield the windows of a segment's vector, each within one part of it."""
    start = 0
    for length, form in parts_of(segment, formats):
        for first in range(start, start + length, WINDOW):
            yield first, min(first + WINDOW, start + length), form
        start += length
