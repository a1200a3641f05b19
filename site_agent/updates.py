"""A contribution on the disk, read window by window and checked on the way, before any of it may leave the site.

Every value is in the range of its part's format: else the sum over all sites could wrap, or a site could put more than
one clipped update into it. Beyond the clip's range nothing can be told from integers: that what was encoded was finite
is `fedmepd.fixed_point`'s check. Memory is that of one window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from io import FileIO
from math import sqrt
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedmepd.aggregation import Quantisation, parts_of
from fedmepd.fixed_point import FixedPoint
from fedmepd.layout import Segment
from protos.terms import DeclineCause
from site_agent.errors import Fault, RefusalError

WINDOW = 1 << 18  # values; 1 MiB stays in a core's cache while it is checked and hashed
Words = npt.NDArray[np.uint32]


class CheckedUpdate:
    """A contribution to be read once.

    Args:
        path: The file.
        segments: What it consists of, in order.
        formats: Of the run.
        most_norm: Largest L2 norm of the changes of parameters; None for any.

    Attributes:
        path: The file.
        segments: What it consists of, in order.
        digest: SHA-256 of what was read.
    """

    def __init__(
        self, path: Path, segments: Sequence[Segment], formats: Quantisation, *, most_norm: float | None = None
    ) -> None:
        self.path, self.segments = path, tuple(segments)
        self._formats, self._most_norm = formats, most_norm
        self._squares = 0.0
        self.digest = hashlib.sha256()

    def check(self) -> None:
        """Read and check the whole.

        Raises:
            RefusalError: If it must not leave the site.
        """
        for _ in self.windows():
            pass

    def windows(self) -> Iterator[tuple[Segment, Words]]:
        """Yield segment and values, piece by piece, all that were checked; the values may be changed in place.

        Raises:
            RefusalError: If a value is out of range, the file is of another length, or, at the end, the norm is too
                large. What was yielded before must not leave the site then.
        """
        try:
            with self.path.open("rb", buffering=0) as file:
                for segment in self.segments:
                    yield from ((segment, words) for words in self._segment(file, segment))
                if file.read(1):
                    raise _update("the contribution is longer than the layout wants", "shape")
        except OSError as error:
            raise _update("the contribution cannot be read", "other") from error
        self._check_norm()

    def _segment(self, file: FileIO, segment: Segment) -> Iterator[Words]:
        for index, (length, form) in enumerate(parts_of(segment, self._formats)):
            for begin in range(0, length, WINDOW):
                count = min(WINDOW, length - begin)
                words = np.empty(count, "<u4")
                if file.readinto(words.data) != words.nbytes:
                    raise _update("the contribution is shorter than the layout wants", "shape")
                _check_range(words, form, segment)
                if self._most_norm is not None and index in (0, 1):  # changes of plain values and of filters
                    self._squares += float(np.square(form.decode(words)).sum())
                self.digest.update(words.data)
                yield words

    def _check_norm(self) -> None:
        if self._most_norm is not None and sqrt(self._squares) > self._most_norm:
            raise RefusalError(
                "the norm of the update is above what the site's policy allows",
                cause=DeclineCause.UPDATE,
                clause="policy limits.max_update_norm",
                fault="norm",
            )


def _check_range(words: Words, form: FixedPoint, segment: Segment) -> None:
    most = int(form.clip * form.scale) + 1
    signed = words.view("<i4")
    if len(signed) and not -most <= int(signed.min()) <= int(signed.max()) <= most:
        raise _update(f"the contribution has a value out of range in segment {segment.name}", "range")


def _update(problem: str, fault: Fault) -> RefusalError:
    return RefusalError(problem, cause=DeclineCause.UPDATE, clause="PROTOCOL 8.4", fault=fault)
