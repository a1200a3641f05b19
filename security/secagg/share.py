"""R1: check everybody's keys, draw seeds, share all secrets with all of U1 (SPEC 10.3, 10.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from security.encoding import frame, text
from security.errors import ContextError
from security.secagg.keys import Advertisement, KeySet, agree, believed, channel_key, commitment
from security.secagg.randomness import SYSTEM, Randomness
from security.secagg.state import Bundle, SiteState, check_repeated
from security.shamir import split

NONCE = bytes(12)  # each key seals one message


def share(state: SiteState, advertisements: Sequence[Advertisement], random: Randomness = SYSTEM) -> SiteState:
    """Check everybody's keys, draw seeds, share all secrets (SPEC 10.3, 10.4).

    Raises:
        EquivocationError: If another set of keys was answered before.
        RosterError, SignatureError, ShareError: If the keys are not to be believed.
        SmallCohortError: If too few sites take part.
    """
    if state.keys is not None:
        check_repeated(state.keys.advertisements == tuple(advertisements), "another set of keys")
        return state
    keys = believed(state.setting, advertisements)
    if keys.of(state.site) != state.advertisement:
        raise ContextError("the round's keys hold others for this site than it made")
    keys.check_open(state.setting.common, keys.sites)
    seeds = tuple(random.key() for _ in state.setting.segments_of(state.site))
    columns = [
        split(secret, threshold=keys.threshold, count=len(keys.sites), coefficient=random.coefficient)
        for secret in (state.mask_private, *seeds)
    ]
    rows = dict(zip(keys.sites, zip(*columns, strict=True), strict=True))
    bundle = Bundle(
        site=state.site,
        commitments=tuple(
            commitment(keys.context, state.site, segment.name, seed)
            for segment, seed in zip(state.setting.segments_of(state.site), seeds, strict=True)
        ),
        sealed={peer: _seal(state, keys, peer, b"".join(row)) for peer, row in rows.items() if peer != state.site},
    )
    return replace(state, keys=keys, seeds=seeds, bundle=bundle, shares={state.site: rows[state.site]})


def _seal(state: SiteState, keys: KeySet, peer: str, shares: bytes) -> bytes:
    key = channel_key(agree(state.channel_private, keys.of(peer).channel_key), keys.context, state.site, peer)
    return ChaCha20Poly1305(key).encrypt(NONCE, shares, associated(keys, state.site, peer))


def associated(keys: KeySet, sender: str, receiver: str) -> bytes:
    """Return the associated data of a bundle (SPEC 10.4)."""
    return frame("fedmepd/secagg-share", 1, keys.context, text(sender), text(receiver))
