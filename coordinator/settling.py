"""The terms of an attempt at secure aggregation, from the signed list in force and what was broadcast. For a thread."""

from __future__ import annotations

import os
from datetime import datetime

import numpy as np

from coordinator.errors import ConflictError
from coordinator.ports import BlobStore
from coordinator.secure_round import terms_of
from coordinator.state import RunState, Terms
from fedmepd.layout import Layout, Segment
from fedmepd.runspec import RunSpec, announced_least
from protos.terms import ArtefactRef
from security.membership import MembershipList

_WORD = 4


def settle(
    blobs: BlobStore,
    state: RunState,
    spec: RunSpec,
    layout: Layout,
    membership: MembershipList | None,
    now: datetime,
) -> Terms:
    """Fix the terms of the current attempt.

    Raises:
        ConflictError: If there is no list, or no site of the round is on it.
        StorageError, NotFoundError: If the broadcast cannot be read.
    """
    if membership is None:
        raise ConflictError("there is no signed membership list", remedy="fedmepd-admin membership sign")
    published = {} if state.published is None else state.published.segments
    counts = {segment.name: _least_open(blobs, published[segment.name], segment, spec) for segment in layout.segments}
    return terms_of(state, spec, layout, membership, counts, now)


def _least_open(blobs: BlobStore, artefact: ArtefactRef, segment: Segment, spec: RunSpec) -> int:
    """Read the counts at the end of a segment's artefact (SPEC 9.1)."""
    if not segment.slots:
        return 0
    with blobs.open(artefact) as file:
        file.seek(-_WORD * segment.slots, os.SEEK_END)
        counts = np.frombuffer(file.read(), "<u4").astype(np.int64)
    return announced_least(spec.plan, counts)
