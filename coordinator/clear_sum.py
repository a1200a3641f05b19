"""Summation in clear: the coordinator sees every site's integers and checks them.

A window of the sum is finished in one go: read from every input, checked, added; two threads do two windows at a time,
and what they work on stays in their cores' caches. Memory is that of a few windows, however many sites there are.
Secure aggregation is another adapter of the same port (`secure_sum`).
The sums are those of `fedmepd.aggregation.Accumulator`; a test compares the two.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coordinator.errors import RefusedError
from coordinator.ports import Input
from fedmepd import durable
from fedmepd.aggregation import Quantisation, parts_of, vector_length
from fedmepd.fixed_point import FixedPoint
from fedmepd.layout import Layout, Segment

WINDOW = 1 << 17  # words; 512 KiB, and as many of the sum, stay in a core's cache between check and addition
WORD = 4
_THREADS = 2  # reading and adding leave the interpreter's lock to others
_Words = npt.NDArray[np.uint32]
_Window = tuple[int, int, FixedPoint]
_Source = tuple[str, int, int]  # site, descriptor, where the segment begins in its file


class UnfitInputError(RefusedError):
    """An input that must not be added.

    Args:
        site: Whose.
        problem: What is wrong with it.
        cause: In one word.
    """

    def __init__(self, site: str, problem: str, *, cause: str = "shape") -> None:
        super().__init__(f"the input of {site} is refused: {problem}", cause=cause)
        self.site = site


class ClearSummation:
    """Adds inputs in clear."""

    def sum(self, layout: Layout, formats: Quantisation, inputs: Sequence[Input], out: Path) -> Mapping[str, int]:
        """Add inputs segment by segment and write the sum (see `ports.Summation`)."""
        for found in inputs:
            check_length(layout, found)
        contributors: dict[str, int] = {}
        with ExitStack() as stack, durable.replacing(out) as target:
            files = {found.site: stack.enter_context(found.path.open("rb", buffering=0)) for found in inputs}
            reached = dict.fromkeys(files, 0)
            pool = stack.enter_context(ThreadPoolExecutor(_THREADS, "sum"))
            for segment in layout.segments:
                own = [found.site for found in inputs if segment in layout.for_member(found.modalities)]
                sources = [(site, files[site].fileno(), reached[site]) for site in own]
                for total in _sums(pool, segment, formats, sources):
                    target.write(total.astype("<u4", copy=False).data)
                reached.update((site, reached[site] + WORD * vector_length(segment)) for site in own)
                contributors.update({segment.name: len(own)} if own else {})
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


def _sums(
    pool: ThreadPoolExecutor, segment: Segment, formats: Quantisation, sources: Sequence[_Source]
) -> Iterator[_Words]:
    """Yield the sum of a segment, window by window."""
    left = windows(segment, formats)
    while some := list(islice(left, _THREADS)):
        yield from pool.map(partial(_sum, segment, sources), some)


def _sum(segment: Segment, sources: Sequence[_Source], window: _Window) -> _Words:
    """Add up one window of all inputs."""
    start, stop, form = window
    most, words = int(form.clip * form.scale) + 1, np.empty(stop - start, "<u4")
    total, signed = np.zeros(stop - start, np.uint32), words.view(np.int32)
    for site, descriptor, begin in sources:
        if os.preadv(descriptor, [words.data], begin + WORD * start) != words.nbytes:
            raise UnfitInputError(site, "it ended early")
        if int(signed.max()) > most or int(signed.min()) < -most:
            raise UnfitInputError(site, f"segment {segment.name!r} holds a value outside of its range", cause="range")
        np.add(total, words, out=total)
    return total


def windows(segment: Segment, formats: Quantisation) -> Iterator[_Window]:
    """Yield the windows of a segment's vector, each within one part of it."""
    start = 0
    for length, form in parts_of(segment, formats):
        for first in range(start, start + length, WINDOW):
            yield first, min(first + WINDOW, start + length), form
        start += length
