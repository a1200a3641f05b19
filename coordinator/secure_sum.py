"""Summation under masks: the coordinator adds what it cannot read, then takes the masks off the sum (SPEC 11.2, 11.3).

Inputs are uniformly distributed, so nothing can be checked of them alone but their length; of the opened sum it is
checked that it says how many sites are in it and that no value is beyond what so many sites can contribute. Memory
holds the sum of one segment and one window, however many sites there are. A modality's segment whose sum is wrong is
discarded alone; whose fault it is cannot be known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coordinator.clear_sum import WINDOW, WORD, UnfitInputError, check_length, windows
from coordinator.errors import CoordinatorError
from coordinator.ports import Input
from fedmepd import durable
from fedmepd.aggregation import SCALARS, Quantisation, vector_length
from fedmepd.layout import COMMON, Layout, Segment
from security.masking import Masker
from security.secagg import Opening

Words = npt.NDArray[np.uint32]


class WrongSumError(CoordinatorError):
    """An opened sum is none: a site masked something else than it should."""


class SecureSummation:
    """Adds masked inputs and opens their sum.

    Args:
        opening: What takes the masks off.
    """

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self.closed: dict[str, str] = dict(opening.closed)

    def sum(self, layout: Layout, formats: Quantisation, inputs: Sequence[Input], out: Path) -> Mapping[str, int]:
        """Add inputs segment by segment and write the sum (see `ports.Summation`).

        Raises:
            UnfitInputError: If an input has another length.
            WrongSumError: If the opened segment of all sites is no sum of so many; `closed` says so of others.
        """
        for found in inputs:
            check_length(layout, found)
        contributors: dict[str, int] = {}
        with ExitStack() as stack, durable.replacing(out) as target:
            files = [(found, stack.enter_context(found.path.open("rb", buffering=0))) for found in inputs]
            for segment in layout.segments:
                own = [(found, file) for found, file in files if segment in layout.for_member(found.modalities)]
                total = self._kept(segment, formats, own)
                if segment.name not in self.closed:
                    contributors[segment.name] = len(own)
                target.write(total.astype("<u4", copy=False).data)
        return contributors

    def _kept(self, segment: Segment, formats: Quantisation, own: Sequence[tuple[Input, FileIO]]) -> Words:
        """Return the opened sum of a segment; zeros if it is closed, or wrong and not that of all sites."""
        try:
            return self._segment(segment, formats, own)
        except WrongSumError as error:
            if segment.name == COMMON:
                raise
            self.closed[segment.name] = error.problem
        return np.zeros(vector_length(segment), np.uint32)  # the wrong sum is not in memory any more

    def _segment(self, segment: Segment, formats: Quantisation, own: Sequence[tuple[Input, FileIO]]) -> Words:
        """Return the opened sum of a segment, zeros if it stays closed."""
        total = np.zeros(vector_length(segment), np.uint32)
        names = self._opening.contributors.get(segment.name)
        if names is None:
            for _, file in own:
                file.seek(total.nbytes, 1)
            return total
        if sorted(names) != sorted(found.site for found, _ in own):
            raise WrongSumError(f"the sum of segment {segment.name} is opened for other sites than it is made of")
        for found, file in own:
            _add(file, total, found.site)
        Masker(self._opening.pads[segment.name]).apply(total)
        _check(segment, formats, total, len(own))
        return total


def _add(file: FileIO, total: Words, site: str) -> None:
    """Add one segment of one input."""
    window = np.empty(min(WINDOW, len(total)), "<u4")
    for start in range(0, len(total), WINDOW):
        part = total[start : start + WINDOW]
        words = window[: len(part)]
        if file.readinto(words.data) != len(part) * WORD:
            raise UnfitInputError(site, "it ended early")
        np.add(part, words, out=part)


def _check(segment: Segment, formats: Quantisation, total: Words, sites: int) -> None:
    """Check that an opened segment can be the sum of so many sites (SPEC 11.3)."""
    signed = total.view(np.int32)
    said = int(signed[-(len(SCALARS) if segment.name == COMMON else 1)]) / formats.scalar.scale
    if said != sites:
        raise WrongSumError(
            f"the sum of segment {segment.name} says {said:g} sites, {sites} are in it",
            remedy="a site masked something else than its contribution, or with other keys: compare the sites' logs",
        )
    for start, stop, form in windows(segment, formats):
        most = sites * (int(form.clip * form.scale) + 1)
        part = signed[start:stop]
        if int(part.max()) > most or int(part.min()) < -most:
            raise WrongSumError(
                f"the sum of segment {segment.name} holds a value that {sites} sites cannot reach",
                remedy="a site contributed values outside of the run's formats: compare the sites' logs",
            )
