"""An attempt at secure aggregation as the coordinator knows it: its terms, its keys, its transcript (SPEC 9 to 11).

Pure: from the run's state, the signed list and what sites have said to the terms of `security.secagg`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from coordinator.board import Board
from coordinator.errors import ConflictError
from coordinator.state import Publication, RoundState, RunState, Step, Terms
from fedmepd.aggregation import vector_length
from fedmepd.layout import Layout
from fedmepd.layout_json import layout_digest
from fedmepd.runspec import RunSpec
from protos.settings import setting_of
from protos.terms import Advertise, Advertised, NamedHash, RosterSite, SegmentTerms, Shared, Unmasked
from security.membership import Member, MembershipList
from security.secagg import Advertisement, Answer, Bundle, Demands, KeySet, Setting, Transcript, believed


def terms_of(
    state: RunState,
    spec: RunSpec,
    layout: Layout,
    membership: MembershipList,
    least_open: Mapping[str, int],
    now: datetime,
) -> Terms:
    """Fix what an attempt is about (SPEC 9.2).

    Args:
        state: The run, in the phase advertise.
        spec: Its specification.
        layout: Its layout.
        membership: The signed list in force.
        least_open: By segment.
        now: The time.

    Raises:
        ConflictError: If there is nothing to be about.
    """
    current, published = _round_of(state), _published(state)
    members = {member.site: member for member in membership.members}
    listed = [members[site] for site in current.roster if site in members and _counts(members[site], state, now)]
    if not listed:
        raise ConflictError(
            "no site of the round is on the signed membership list as it is in the run",
            remedy="publish a list with these sites, or start a new run",
        )
    task = Advertise(
        roster=tuple(RosterSite(site=member.site, modalities=member.modalities) for member in listed),
        membership_version=membership.version,
        membership_digest=membership.digest,
        layout_digest=layout_digest(layout),
        segments=tuple(
            SegmentTerms(name=s.name, values=vector_length(s), least_open=least_open[s.name]) for s in layout.segments
        ),
        broadcast=broadcast_of(published),
        previous=state.previous or tuple(sorted(state.sites)),
        context="",
    )
    keys = {member.site: member.identity_key.hex() for member in listed}
    terms = Terms(
        consortium=membership.consortium,
        task=task,
        identity_keys=keys,
        minimum_cohort=membership.minimum_cohort,
    )
    context = _setting(state, current, terms, spec).context.hex()
    return replace(terms, task=replace(task, context=context))


def _counts(member: Member, state: RunState, now: datetime) -> bool:
    return (
        member.valid_from <= now < member.valid_until and tuple(sorted(state.sites[member.site])) == member.modalities
    )


def broadcast_of(published: Publication) -> tuple[NamedHash, ...]:
    """Return all artefacts of a broadcast by name, in the order of SPEC 9.2."""
    others = {"anchors": published.anchors, "start": published.start}
    return (
        *(NamedHash(name=name, sha256=ref.sha256) for name, ref in published.segments.items()),
        *(NamedHash(name=name, sha256=ref.sha256) for name, ref in others.items() if ref is not None),
    )


def setting_for(state: RunState, spec: RunSpec) -> Setting:
    """Return the setting of the current attempt, from its terms.

    Raises:
        ConflictError: If they are not settled.
    """
    current = _round_of(state)
    if current.terms is None:
        raise ConflictError(f"the terms of round {current.id} are not settled")
    return _setting(state, current, current.terms, spec)


def _setting(state: RunState, current: RoundState, terms: Terms, spec: RunSpec) -> Setting:
    return setting_of(
        terms.task,
        current.id,
        consortium=terms.consortium,
        spec=spec,
        spec_sha256=state.spec.sha256,
        identity_keys={site: bytes.fromhex(key) for site, key in terms.identity_keys.items()},
        samples=_published(state).samples,
        minimum_cohort=terms.minimum_cohort,
    )


def _published(state: RunState) -> Publication:
    if state.published is None:
        raise ConflictError("the run has published nothing yet")
    return state.published


def _round_of(state: RunState) -> RoundState:
    if state.round is None:
        raise ConflictError(f"run {state.run} has no round yet")
    return state.round


def keys_of(setting: Setting, current: RoundState, board: Board) -> KeySet:
    """Return U1 and its keys.

    Raises:
        SecureAggregationError: If they do not go together.
    """
    return believed(setting, [advertisement_of(site, board.advertised(site)) for site in current.advertised])


def advertisement_of(site: str, said: Advertised) -> Advertisement:
    """Return what a site advertised.

    Raises:
        SmallCohortError: If its demands are out of range.
    """
    return Advertisement(
        site=site,
        channel_key=said.channel_key,
        mask_key=said.mask_key,
        demands=Demands(minimum=said.minimum, colluders=said.colluders),
        signature=said.signature,
    )


def bundle_of(site: str, said: Shared) -> Bundle:
    """Return what a site shared."""
    return Bundle(site=site, commitments=said.commitments, sealed={share.site: share.sealed for share in said.shares})


def answer_of(site: str, said: Unmasked) -> Answer:
    """Return what a site gave to open the sum."""
    seeds: dict[str, dict[str, bytes]] = {}
    for share in said.seeds:
        seeds.setdefault(share.site, {})[share.segment] = share.share
    return Answer(site=site, seeds=seeds, keys={share.site: share.share for share in said.keys})


def transcript_of(keys: KeySet, current: RoundState, board: Board) -> Transcript:
    """Return all that is needed to open the sum of an attempt."""
    return Transcript(
        keys=keys,
        sharers=current.shared,
        survivors=current.survivors,
        commitments={site: board.shared(site).commitments for site in current.shared},
        answers=tuple(answer_of(site, board.unmasked(site)) for site in board.sites(Step.UNMASKED)),
    )
