"""R2: take the others' shares, and the pads that cover the site's input (SPEC 10.5, 10.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from security.errors import EquivocationError, ShareError
from security.masking import Pad
from security.secagg.keys import KeySet, agree, channel_key, pair_pad, self_pad
from security.secagg.share import NONCE, associated
from security.secagg.state import SiteState, check_repeated, shared
from security.shamir import SHARE_BYTES, check_share


def receive(state: SiteState, sharers: Sequence[str], sealed: Mapping[str, bytes]) -> SiteState:
    """Take the others' shares, before the input is masked (SPEC 10.5).

    Args:
        state: After `share`.
        sharers: U2.
        sealed: What others sealed for this site; what does not open counts as not received.

    Raises:
        EquivocationError: If another U2 was answered before.
        RosterError: If U2 is not what it must be.
        SmallCohortError: If too few sites are left.
    """
    keys = shared(state)
    if state.sharers:
        check_repeated(state.sharers == tuple(sharers), "another set of sharing sites")
        return state
    keys.check_sharers(sharers, own=state.site)
    keys.check_open(state.setting.common, sharers)
    opened = {
        peer: _opened(state, keys, peer, sealed[peer]) for peer in sharers if peer in sealed and peer != state.site
    }
    shares = {peer: found for peer, found in opened.items() if found is not None}
    return replace(state, sharers=tuple(sharers), shares={**state.shares, **shares})


def missing_shares(state: SiteState) -> tuple[str, ...]:
    """Return the sites of U2 whose bundle did not open: something for the audit log."""
    return tuple(site for site in state.sharers if site not in state.shares)


def pads(state: SiteState) -> Mapping[str, tuple[Pad, ...]]:
    """Return the pads of each of the site's segments (SPEC 10.6).

    Raises:
        EquivocationError: Before `receive`.
    """
    keys = shared(state)
    if not state.sharers:
        raise EquivocationError("who shares is not known yet")
    common = {peer: agree(state.mask_private, keys.of(peer).mask_key) for peer in state.sharers if peer != state.site}
    found: dict[str, tuple[Pad, ...]] = {}
    for segment, seed in zip(state.setting.segments_of(state.site), state.seeds, strict=True):
        peers = (peer for peer in state.setting.members(segment.name, state.sharers) if peer != state.site)
        pairs = (pair_pad(common[peer], keys.context, state.site, peer, segment.name) for peer in peers)
        found[segment.name] = (self_pad(seed, keys.context, state.site, segment.name), *pairs)
    return found


def _opened(state: SiteState, keys: KeySet, peer: str, sealed: bytes) -> tuple[bytes, ...] | None:
    """Open a peer's bundle; None if it does not open or is malformed."""
    count = 1 + len(state.setting.segments_of(peer))
    try:
        key = channel_key(agree(state.channel_private, keys.of(peer).channel_key), keys.context, peer, state.site)
        plain = ChaCha20Poly1305(key).decrypt(NONCE, sealed, associated(keys, peer, state.site))
        if len(plain) != count * SHARE_BYTES:
            return None
        shares = tuple(plain[i * SHARE_BYTES : (i + 1) * SHARE_BYTES] for i in range(count))
        for found in shares:
            check_share(found)
    except (InvalidTag, ShareError):
        return None
    return shares
