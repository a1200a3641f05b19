"""The masked vector of an attempt: the contribution with the site's pads on it, written durably (SPEC 10.6).

The clear contribution is read once, window by window, and each window is checked before it is masked; memory does not
grow with the model. Nothing appears under the file's name before all of it was checked, masked and synchronised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedmepd.aggregation import vector_length
from fedmepd.durable import replacing
from fedmepd.layout import Segment
from protos.terms import ArtefactRef, DeclineCause, SegmentSlice, VectorManifest
from security.masking import Masker, Pad
from site_agent.errors import RefusalError
from site_agent.faults import disk
from site_agent.updates import CheckedUpdate

_WORD = 4


def write_masked(
    target: Path,
    update: CheckedUpdate,
    segments: Sequence[Segment],
    pads: Mapping[str, tuple[Pad, ...]],
    *,
    sha256: str,
) -> VectorManifest:
    """Mask a contribution into a file.

    Args:
        target: The masked file.
        update: The clear contribution, not read yet.
        segments: What it consists of, in order.
        pads: By segment.
        sha256: What the clear contribution must hash to.

    Returns:
        What the masked vector is.

    Raises:
        RefusalError: If the contribution is another one, or must not leave the site.
        StorageError: If the disk is full.
    """
    if set(pads) != {segment.name for segment in segments}:
        raise ValueError("pads and segments differ")
    maskers = {name: Masker(found) for name, found in pads.items()}
    masked = hashlib.sha256()
    with disk(target), replacing(target) as file:
        for segment, words in update.windows():
            maskers[segment.name].apply(words)
            masked.update(words.data)
            file.write(words.data)
        if update.digest.hexdigest() != sha256:
            raise RefusalError("the contribution is not the one that was trained", cause=DeclineCause.UPDATE)
    slices = tuple(SegmentSlice(name=segment.name, values=vector_length(segment)) for segment in segments)
    size = _WORD * sum(part.values for part in slices)
    return VectorManifest(segments=slices, vector=ArtefactRef(sha256=masked.hexdigest(), size=size))
