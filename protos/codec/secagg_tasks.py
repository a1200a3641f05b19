"""Tasks of secure aggregation, as alternatives of an instruction (PROTOCOL 4.10 to 4.14).

Decoded tasks are sound in form. That they are to be trusted a site learns by the checks of SPEC 9.5 and 10 only.
"""

from __future__ import annotations

from collections.abc import Sequence

from protos.codec.checks import (
    HASH_BYTES,
    KEY_BYTES,
    LEAST_COHORT,
    MAX_ARTEFACT_BYTES,
    MAX_MODALITIES,
    MAX_ROSTER,
    MAX_SEGMENTS,
    SIGNATURE_BYTES,
    counted,
    distinct,
    exactly,
    increasing,
    integer,
    name,
    refuse,
    segment_name,
    sites,
)
from protos.codec.secagg import decode_by_site, decode_sealed, encode_sealed
from protos.terms import (
    Advertise,
    AdvertisedKeys,
    Confirm,
    Mask,
    NamedHash,
    RosterSite,
    SegmentTerms,
    Share,
    SurvivorSignature,
    Unmask,
)
from protos.v1 import federation_pb2 as federation

_WORD = 4
_TAIL = ("anchors", "start")  # what a broadcast has beside segments, in this order


def encode_advertise(task: Advertise) -> federation.Advertise:
    """Return the message of R0's task."""
    return federation.Advertise(
        roster=[federation.RosterSite(site=known.site, modalities=known.modalities) for known in task.roster],
        membership_version=task.membership_version,
        membership_digest=bytes.fromhex(task.membership_digest),
        layout_digest=bytes.fromhex(task.layout_digest),
        segments=[
            federation.SegmentTerms(name=part.name, values=part.values, least_open=part.least_open)
            for part in task.segments
        ],
        broadcast=[federation.NamedHash(name=ref.name, sha256=bytes.fromhex(ref.sha256)) for ref in task.broadcast],
        previous=task.previous,
        context=bytes.fromhex(task.context),
    )


def decode_advertise(message: federation.Advertise) -> Advertise:
    """Return R0's task.

    Raises:
        MalformedMessageError: Naming the field.
    """
    return Advertise(
        roster=decode_by_site(message.roster, "Advertise.roster", _decode_roster_site),
        membership_version=integer(message.membership_version, "Advertise.membership_version", least=1),
        membership_digest=exactly(message.membership_digest, "Advertise.membership_digest", HASH_BYTES).hex(),
        layout_digest=exactly(message.layout_digest, "Advertise.layout_digest", HASH_BYTES).hex(),
        segments=_decode_segments(message.segments, "Advertise.segments"),
        broadcast=_decode_broadcast(message.broadcast, "Advertise.broadcast"),
        previous=sites(message.previous, "Advertise.previous"),
        context=exactly(message.context, "Advertise.context", HASH_BYTES).hex(),
    )


def encode_share(task: Share) -> federation.Share:
    """Return the message of R1's task."""
    return federation.Share(
        keys=[
            federation.AdvertisedKeys(
                site=known.site,
                channel_key=known.channel_key,
                mask_key=known.mask_key,
                minimum=known.minimum,
                colluders=known.colluders,
                signature=known.signature,
            )
            for known in task.keys
        ]
    )


def decode_share(message: federation.Share) -> Share:
    """Return R1's task.

    Raises:
        MalformedMessageError: Naming the field.
    """
    return Share(keys=decode_by_site(message.keys, "Share.keys", _decode_keys))


def encode_mask(task: Mask) -> federation.Mask:
    """Return the message of R2's task."""
    return federation.Mask(sharers=task.sharers, shares=encode_sealed(task.shares))


def decode_mask(message: federation.Mask) -> Mask:
    """Return R2's task.

    Raises:
        MalformedMessageError: Naming the field.
    """
    return Mask(sharers=sites(message.sharers, "Mask.sharers"), shares=decode_sealed(message.shares, "Mask.shares"))


def encode_confirm(task: Confirm) -> federation.Confirm:
    """Return the message of R3's task."""
    return federation.Confirm(survivors=task.survivors)


def decode_confirm(message: federation.Confirm) -> Confirm:
    """Return R3's task.

    Raises:
        MalformedMessageError: Naming the field.
    """
    return Confirm(survivors=sites(message.survivors, "Confirm.survivors"))


def encode_unmask(task: Unmask) -> federation.Unmask:
    """Return the message of R4's task."""
    return federation.Unmask(
        signatures=[
            federation.SurvivorSignature(site=known.site, signature=known.signature) for known in task.signatures
        ]
    )


def decode_unmask(message: federation.Unmask) -> Unmask:
    """Return R4's task.

    Raises:
        MalformedMessageError: Naming the field.
    """
    return Unmask(signatures=decode_by_site(message.signatures, "Unmask.signatures", _decode_signature))


def _decode_roster_site(message: federation.RosterSite, where: str) -> RosterSite:
    site, path = name(message.site, f"{where}.site"), f"{where}.modalities"
    counted(message.modalities, path, least=1, most=MAX_MODALITIES)
    modalities = tuple(name(own, f"{path}[{index}]") for index, own in enumerate(message.modalities))
    increasing(modalities, path)
    return RosterSite(site=site, modalities=modalities)


def _decode_segments(messages: Sequence[federation.SegmentTerms], where: str) -> tuple[SegmentTerms, ...]:
    counted(messages, where, least=1, most=MAX_SEGMENTS)
    segments = tuple(_decode_segment(part, f"{where}[{index}]") for index, part in enumerate(messages))
    distinct([segment.name for segment in segments], where)
    return segments


def _decode_segment(message: federation.SegmentTerms, where: str) -> SegmentTerms:
    return SegmentTerms(
        name=segment_name(message.name, f"{where}.name"),
        values=integer(message.values, f"{where}.values", most=MAX_ARTEFACT_BYTES // _WORD),
        least_open=integer(message.least_open, f"{where}.least_open", most=MAX_ROSTER),
    )


def _decode_broadcast(messages: Sequence[federation.NamedHash], where: str) -> tuple[NamedHash, ...]:
    """Return the artefacts of a broadcast: segments first, then the others in their order (SPEC 9.2)."""
    counted(messages, where, least=1, most=MAX_SEGMENTS + len(_TAIL))
    broadcast = tuple(_decode_hash(ref, f"{where}[{index}]") for index, ref in enumerate(messages))
    names = [ref.name for ref in broadcast]
    distinct(names, where)
    tail = [other for other in _TAIL if other in names]
    if tail and names[-len(tail) :] != tail:
        refuse(where, f"{', '.join(tail)} must come last, in this order")
    return broadcast


def _decode_hash(message: federation.NamedHash, where: str) -> NamedHash:
    known = message.name if message.name in _TAIL else segment_name(message.name, f"{where}.name")
    return NamedHash(name=known, sha256=exactly(message.sha256, f"{where}.sha256", HASH_BYTES).hex())


def _decode_keys(message: federation.AdvertisedKeys, where: str) -> AdvertisedKeys:
    return AdvertisedKeys(
        site=name(message.site, f"{where}.site"),
        channel_key=exactly(message.channel_key, f"{where}.channel_key", KEY_BYTES),
        mask_key=exactly(message.mask_key, f"{where}.mask_key", KEY_BYTES),
        minimum=integer(message.minimum, f"{where}.minimum", least=LEAST_COHORT, most=MAX_ROSTER),
        colluders=integer(message.colluders, f"{where}.colluders", most=MAX_ROSTER),
        signature=exactly(message.signature, f"{where}.signature", SIGNATURE_BYTES),
    )


def _decode_signature(message: federation.SurvivorSignature, where: str) -> SurvivorSignature:
    return SurvivorSignature(
        site=name(message.site, f"{where}.site"),
        signature=exactly(message.signature, f"{where}.signature", SIGNATURE_BYTES),
    )
