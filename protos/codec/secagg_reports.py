"""Reports by which sites carry out secure aggregation (PROTOCOL 5.9 to 5.13).

Decoded reports are sound in form: whether they suit the round is the coordinator's to check, what they prove and open
that of `security` (SPEC 10 and 11). An error quotes no share.
"""

from __future__ import annotations

from collections.abc import Sequence

from protos.codec.checks import (
    HASH_BYTES,
    KEY_BYTES,
    LEAST_COHORT,
    MAX_ROSTER,
    MAX_SEED_SHARES,
    MAX_SEGMENTS,
    SHARE_BYTES,
    SIGNATURE_BYTES,
    counted,
    distinct,
    exactly,
    increasing_or_equal,
    integer,
    name,
    quoted,
    refuse,
    segment_name,
)
from protos.codec.secagg import decode_by_site, decode_sealed, encode_sealed
from protos.terms import Advertised, Confirmed, KeyShare, SeedShare, Shared, Unmasked
from protos.v1 import federation_pb2 as federation


def encode_advertised(body: Advertised) -> federation.Advertised:
    """Return the message of a site's round keys."""
    return federation.Advertised(
        channel_key=body.channel_key,
        mask_key=body.mask_key,
        minimum=body.minimum,
        colluders=body.colluders,
        signature=body.signature,
    )


def decode_advertised(message: federation.Advertised) -> Advertised:
    """Return a site's round keys.

    Raises:
        MalformedMessageError: Naming the field.
    """
    return Advertised(
        channel_key=exactly(message.channel_key, "Advertised.channel_key", KEY_BYTES),
        mask_key=exactly(message.mask_key, "Advertised.mask_key", KEY_BYTES),
        minimum=integer(message.minimum, "Advertised.minimum", least=LEAST_COHORT, most=MAX_ROSTER),
        colluders=integer(message.colluders, "Advertised.colluders", most=MAX_ROSTER),
        signature=exactly(message.signature, "Advertised.signature", SIGNATURE_BYTES),
    )


def encode_shared(body: Shared) -> federation.Shared:
    """Return the message of a site's commitments and sealed shares."""
    return federation.Shared(commitments=body.commitments, shares=encode_sealed(body.shares))


def decode_shared(message: federation.Shared) -> Shared:
    """Return a site's commitments and sealed shares.

    Raises:
        MalformedMessageError: Naming the field.
    """
    where = "Shared.commitments"
    counted(message.commitments, where, least=1, most=MAX_SEGMENTS)
    hashes = tuple(exactly(value, f"{where}[{i}]", HASH_BYTES) for i, value in enumerate(message.commitments))
    return Shared(commitments=hashes, shares=decode_sealed(message.shares, "Shared.shares"))


def encode_confirmed(body: Confirmed) -> federation.Confirmed:
    """Return the message of a site's signature over U2 and U3."""
    return federation.Confirmed(signature=body.signature)


def decode_confirmed(message: federation.Confirmed) -> Confirmed:
    """Return a site's signature over U2 and U3.

    Raises:
        MalformedMessageError: Naming the field.
    """
    return Confirmed(signature=exactly(message.signature, "Confirmed.signature", SIGNATURE_BYTES))


def encode_unmasked(body: Unmasked) -> federation.Unmasked:
    """Return the message of the shares that a site gives."""
    return federation.Unmasked(
        seeds=[federation.SeedShare(site=part.site, segment=part.segment, share=part.share) for part in body.seeds],
        keys=[federation.KeyShare(site=part.site, share=part.share) for part in body.keys],
    )


def decode_unmasked(message: federation.Unmasked) -> Unmasked:
    """Return the shares that a site gives, of one kind for each site (SPEC 10.9).

    Raises:
        MalformedMessageError: Naming the field.
    """
    seeds = _decode_seeds(message.seeds, "Unmasked.seeds")
    keys = decode_by_site(message.keys, "Unmasked.keys", _decode_key, least=0)
    if not seeds and not keys:
        refuse("Unmasked", "no share at all")
    survivors = {seed.site for seed in seeds}
    for index, key in enumerate(keys):
        if key.site in survivors:
            refuse(f"Unmasked.keys[{index}].site", f"{quoted(key.site)} is among the seeds too")
    return Unmasked(seeds=seeds, keys=keys)


def _decode_seeds(messages: Sequence[federation.SeedShare], where: str) -> tuple[SeedShare, ...]:
    counted(messages, where, most=MAX_SEED_SHARES)
    seeds = tuple(_decode_seed(part, f"{where}[{index}]") for index, part in enumerate(messages))
    increasing_or_equal([seed.site for seed in seeds], where)
    distinct([(seed.site, seed.segment) for seed in seeds], where)
    segments = len({seed.segment for seed in seeds})
    if segments > MAX_SEGMENTS:
        refuse(where, f"{segments} segments, wanted at most {MAX_SEGMENTS}")
    return seeds


def _decode_seed(message: federation.SeedShare, where: str) -> SeedShare:
    return SeedShare(
        site=name(message.site, f"{where}.site"),
        segment=segment_name(message.segment, f"{where}.segment"),
        share=exactly(message.share, f"{where}.share", SHARE_BYTES),
    )


def _decode_key(message: federation.KeyShare, where: str) -> KeyShare:
    return KeyShare(
        site=name(message.site, f"{where}.site"),
        share=exactly(message.share, f"{where}.share", SHARE_BYTES),
    )
