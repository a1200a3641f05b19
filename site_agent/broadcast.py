"""What a broadcast that was downloaded says for secure aggregation: names, hashes, and counts of contributors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedmepd.artefacts import segment_length
from fedmepd.layout import Layout, Segment
from fedmepd.plan import Plan
from fedmepd.runspec import announced_least
from protos.terms import ArtefactRef, DeclineCause, Train
from site_agent.errors import RefusalError
from site_agent.transfers import Downloads

_WORD = 4


def names_of(task: Train) -> Mapping[str, str]:
    """Return the SHA-256 of all that a site downloads for a round, by the name it has in the broadcast (SPEC 9.2)."""
    others = {"anchors": task.anchors, "start": task.start}
    return {
        **{part.name: part.artefact.sha256 for part in task.segments},
        **{name: ref.sha256 for name, ref in others.items() if ref is not None},
    }


def least_open_of(task: Train, layout: Layout, plan: Plan, downloads: Downloads) -> Mapping[str, int]:
    """Return, by segment, the smallest count among the slots that are open in this round; 0 if none is (SPEC 9.1).

    Raises:
        RefusalError: If an artefact is not what the layout wants.
    """
    artefacts = {part.name: part.artefact for part in task.segments}
    segments = (segment for segment in layout.segments if segment.name in artefacts)
    return {one.name: _least_open(one, artefacts[one.name], plan, downloads) for one in segments}


def _least_open(segment: Segment, ref: ArtefactRef, plan: Plan, downloads: Downloads) -> int:
    """Read the counts, the last part of an artefact, and no more of it."""
    if not segment.slots:
        return 0
    wanted = segment_length(segment)
    try:
        with downloads.path(ref).open("rb") as file:
            file.seek(wanted - _WORD * segment.slots)
            counts = np.frombuffer(file.read(), "<u4").astype(np.int64)
    except (OSError, ValueError) as error:
        raise _wrong(segment) from error
    if ref.size != wanted or len(counts) != segment.slots:
        raise _wrong(segment)
    return announced_least(plan, counts)


def _wrong(segment: Segment) -> RefusalError:
    return RefusalError(f"the artefact of segment {segment.name} cannot be used", cause=DeclineCause.UPDATE)
