"""What travels between coordinator and sites, as bytes. Torch-free.

Every vector is little-endian and has exactly the length that the layout says:

    segment (download, one per segment)    [plain float32 | filters float32 | counts uint32]
    contribution (upload of a site)        the site's segment vectors (uint32) in the order of the layout
    sum                                    all segment vectors (uint32) in the order of the layout; zeros where nobody
                                           contributed, and beside it the number of contributors of each segment
    anchors, start weights                 safetensors of float32, names and shapes as the receiver expects them

The readers are total: bytes of another length, with values that are not finite, or with other names or shapes raise an
`UpdateError` that names the artefact. Vectors that were read are views of what was given, so a mapped file stays one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from fedmepd.aggregation import Accumulator, Contribution, vector_length
from fedmepd.errors import UpdateError
from fedmepd.fixed_point import Ring
from fedmepd.layout import COMMON, FloatArray, Layout, Segment

Buffer = bytes | memoryview | Ring
Shapes = Mapping[str, tuple[int, ...]]
_WORD = 4
_FLOATS, _WORDS = np.dtype("<f4"), np.dtype("<u4")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentValues:
    """The global values of one segment.

    Attributes:
        plain: Plain values.
        filters: Filter values.
        counts: Contributors announced for this round, per slot.
    """

    plain: FloatArray
    filters: FloatArray
    counts: npt.NDArray[np.int64]


def segment_length(segment: Segment) -> int:
    """Return the bytes of a segment's artefact."""
    return _WORD * (segment.plain_values + segment.filter_values + segment.slots)


def dump_segment(values: SegmentValues) -> bytes:
    """Write a segment's artefact."""
    floats = (values.plain.astype(_FLOATS), values.filters.astype(_FLOATS))
    return b"".join(part.tobytes() for part in (*floats, values.counts.astype(_WORDS)))


def parse_segment(data: bytes, segment: Segment) -> SegmentValues:
    """Read a segment's artefact.

    Raises:
        UpdateError: If it has another length or holds values that are not finite.
    """
    what = f"segment {segment.name!r}"
    _check_length(what, len(data), segment_length(segment))
    values = np.frombuffer(data, _FLOATS, segment.plain_values + segment.filter_values).astype(np.float32)
    _check_finite(what, values)
    counts = np.frombuffer(data, _WORDS, segment.slots, offset=values.nbytes)
    plain, filters = np.split(values, [segment.plain_values])
    return SegmentValues(plain=plain, filters=filters, counts=counts.astype(np.int64))


def contribution_length(layout: Layout, own: Sequence[str]) -> int:
    """Return the bytes that a site of these modalities uploads."""
    return _WORD * sum(vector_length(segment) for segment in layout.for_member(own))


def dump_contribution(contribution: Contribution, layout: Layout) -> bytes:
    """Write a contribution."""
    names = (segment.name for segment in layout.segments if segment.name in contribution.vectors)
    return b"".join(contribution.vectors[name].astype(_WORDS).tobytes() for name in names)


def parse_contribution(data: Buffer, layout: Layout, own: Sequence[str], *, site: str) -> Contribution:
    """Read a contribution; its vectors are views of the data.

    Args:
        data: Bytes, or what `map_words` returned.
        layout: The run's layout.
        own: Modalities of the site.
        site: Whose contribution it is.

    Raises:
        UpdateError: If it has another length.
    """
    return Contribution(site=site, vectors=_cut(_words(data), layout.for_member(own), f"contribution of {site!r}"))


def map_words(path: Path) -> Ring:
    """Map a file of words into memory, read-only.

    Raises:
        UpdateError: If it cannot be read or is no whole number of words.
    """
    try:
        size = path.stat().st_size
        if size == 0 or size % _WORD:
            raise UpdateError(f"{path.name} has {size} bytes, no whole number of words")
        return np.memmap(path, _WORDS, "r")
    except OSError as error:
        raise UpdateError(f"{path.name} cannot be read ({error.strerror})") from error


def sum_length(layout: Layout) -> int:
    """Return the bytes of a sum."""
    return contribution_length(layout, layout.modalities)


def dump_sum(accumulator: Accumulator) -> bytes:
    """Write a sum; the contributors of each segment are `accumulator.contributors`."""
    vectors = (
        accumulator.sums.get(segment.name, np.zeros(vector_length(segment), np.uint32))
        for segment in accumulator.layout.segments
    )
    return b"".join(vector.astype(_WORDS).tobytes() for vector in vectors)


def parse_sum(data: Buffer, layout: Layout, *, contributors: Mapping[str, int], sites: Sequence[str]) -> Accumulator:
    """Read a sum back into the accumulator that it was written from.

    Args:
        data: Bytes, or what `map_words` returned.
        layout: The run's layout.
        contributors: Sites in the sum per segment; a segment that is not named has none.
        sites: All sites in the sum.

    Raises:
        UpdateError: If it has another length, or the contributors cannot be.
    """
    vectors = _cut(_words(data), layout.segments, "sum")
    strange = sorted(set(contributors) - set(vectors))
    if strange:
        raise UpdateError(f"the sum has contributors of an unknown segment {strange[0][:70]!r}")
    most = len(sites)
    for name in vectors:
        count = contributors.get(name, 0)
        if not 0 <= count <= most or (name == COMMON and count != most) or (not count and vectors[name].any()):
            raise UpdateError(f"the sum of {most} sites cannot have {count} contributors to segment {name!r}")
    counts = {name: contributors[name] for name in vectors if contributors.get(name, 0)}
    return Accumulator(layout, sums={name: vectors[name] for name in counts}, sites=list(sites), contributors=counts)


def dump_tensors(tensors: Mapping[str, FloatArray]) -> bytes:
    """Write named float32 arrays as safetensors."""
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in tensors.items()})


def parse_tensors(data: bytes, expected: Shapes, *, what: str) -> dict[str, FloatArray]:
    """Read named float32 arrays.

    Args:
        data: Safetensors.
        expected: Names and shapes that it must have, no more and no less.
        what: What it is, for messages, such as `anchors`.

    Raises:
        UpdateError: If it is no such file, or a name, shape, type or value is wrong.
    """
    try:
        arrays = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise UpdateError(f"{what}: not safetensors ({str(error)[:100]})") from error
    odd = sorted(set(arrays) ^ set(expected))
    if odd:
        raise UpdateError(f"{what}: tensor {odd[0][:100]!r} is {'unknown' if odd[0] in arrays else 'missing'}")
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.shape != expected[name]:
            raise UpdateError(f"{what}: tensor {name!r} is {array.dtype} {array.shape}, not float32 {expected[name]}")
        _check_finite(f"{what}: tensor {name!r}", array)
    return {name: array.copy() for name, array in arrays.items()}  # what was read cannot be written to


def _cut(words: Ring, segments: Sequence[Segment], what: str) -> dict[str, Ring]:
    lengths = [vector_length(segment) for segment in segments]
    _check_length(what, _WORD * len(words), _WORD * sum(lengths))
    parts = np.split(words, np.cumsum(lengths)[:-1])
    return {segment.name: part for segment, part in zip(segments, parts, strict=True)}


def _words(data: Buffer) -> Ring:
    if isinstance(data, np.ndarray):
        return data
    if len(data) % _WORD:
        raise UpdateError(f"{len(data)} bytes are no whole number of words")
    return np.frombuffer(data, _WORDS)


def _check_length(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise UpdateError(f"{what} has {found} bytes, the layout wants {wanted}")


def _check_finite(what: str, values: FloatArray) -> None:
    if not np.isfinite(values).all():
        raise UpdateError(f"{what} holds values that are not finite")
