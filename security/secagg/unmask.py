"""R4: give what opens the sum, one kind of share per site, only where enough sites are in it (SPEC 10.9, 10.10)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from security.errors import EquivocationError, RosterError, SmallCohortError
from security.secagg.confirm import check_confirmation
from security.secagg.keys import KeySet
from security.secagg.state import Answer, SiteState, shared


def unmask(state: SiteState, signatures: Mapping[str, bytes]) -> SiteState:
    """Check that enough sites signed the same survivors, then give exactly one kind of share per site (SPEC 10.9).

    Args:
        state: After `confirm`.
        signatures: Confirmations by site.

    Raises:
        EquivocationError: If no survivors were signed before.
        RosterError, SignatureError: If a signature does not hold, or too few are there.
        SmallCohortError: If the segment of all sites may not be opened.
    """
    keys = shared(state)
    if not state.survivors:
        raise EquivocationError("this site has not signed who survived")
    if state.answer is not None:
        return state
    for site, signature in signatures.items():
        check_confirmation(keys, state.sharers, state.survivors, site, signature)
    if len(signatures.keys() | {state.site}) < keys.threshold:
        raise RosterError(f"{len(signatures)} sites signed who survived, {keys.threshold} are needed")
    opened = open_segments(keys, state.survivors)
    seeds: dict[str, dict[str, bytes]] = {}
    lost: dict[str, bytes] = {}
    for peer, shares in state.shares.items():
        if peer not in state.survivors:
            lost[peer] = shares[0]
            continue
        names = (segment.name for segment in state.setting.segments_of(peer))
        seeds[peer] = {name: found for name, found in zip(names, shares[1:], strict=True) if name in opened}
    return replace(state, answer=Answer(site=state.site, seeds=seeds, keys=lost))


def open_segments(keys: KeySet, survivors: Sequence[str]) -> frozenset[str]:
    """Return the segments that may be opened (SPEC 10.10): the same at every honest site.

    Raises:
        SmallCohortError: If that of all sites may not: then nothing is opened (SPEC 10.9).
    """
    keys.check_open(keys.setting.common, survivors)
    opened = set()
    for segment in keys.setting.segments:
        with contextlib.suppress(SmallCohortError):
            keys.check_open(segment, survivors)
            opened.add(segment.name)
    return frozenset(opened)
