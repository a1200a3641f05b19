"""What a site may announce and upload, given the layout: checked before a byte of it is accepted. Pure.

The manifest must name exactly the segments of the site's modalities, in the layout's order and length.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.errors import RefusedError
from fedmepd.aggregation import vector_length
from fedmepd.layout import Layout
from protos.terms import SegmentSlice, VectorManifest

_WORD = 4
_SAME = "check that site and coordinator run the same release"


def check_manifest(manifest: VectorManifest, layout: Layout, own: Sequence[str], *, max_bytes: int) -> None:
    """Check a site's announcement.

    Args:
        manifest: What it says that it will upload.
        layout: The run's layout.
        own: Its modalities.
        max_bytes: Largest upload that this coordinator takes.

    Raises:
        RefusedError: Naming the first difference.
    """
    size = check_segments(manifest.segments, layout, own, max_bytes=max_bytes)
    if manifest.vector.size != size:
        raise RefusedError(f"manifest: the vector has {manifest.vector.size} bytes, its segments {size}", cause="shape")


def check_segments(segments: Sequence[SegmentSlice], layout: Layout, own: Sequence[str], *, max_bytes: int) -> int:
    """Check what a site's vector consists of and return its bytes.

    Raises:
        RefusedError: Naming the first difference.
    """
    wanted = layout.for_member(own)
    names = [segment.name for segment in segments]
    if names != [segment.name for segment in wanted]:
        odd = next((name for name in names if name not in {s.name for s in wanted}), None)
        what = f"segment {odd!r} is not the site's" if odd else f"segments {names} are not those of the site"
        raise RefusedError(f"manifest: {what}", remedy=_SAME, cause="shape")
    for announced, segment in zip(segments, wanted, strict=True):
        if announced.values != vector_length(segment):
            raise RefusedError(
                f"manifest: segment {segment.name!r} has {announced.values} values, not {vector_length(segment)}",
                remedy=_SAME,
                cause="shape",
            )
    size = _WORD * sum(segment.values for segment in segments)
    if size > max_bytes:
        raise RefusedError(
            f"manifest: {size} bytes are more than this coordinator takes ({max_bytes})",
            remedy="raise coordinator.max_update_bytes",
            cause="shape",
        )
    return size
