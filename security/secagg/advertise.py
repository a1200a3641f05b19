"""R0: fresh keys, signed over what the round is about (SPEC 10.1).

Whether the setting is what the site knows itself (SPEC 9.5) is checked by who knows it, before.
"""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from security.errors import ContextError, EquivocationError
from security.secagg.keys import Advertisement, public_of
from security.secagg.randomness import SYSTEM, Randomness
from security.secagg.state import SiteState
from security.secagg.terms import Demands, Setting


def advertise(
    setting: Setting, site: str, identity_key: Ed25519PrivateKey, demands: Demands, random: Randomness = SYSTEM
) -> SiteState:
    """Begin an attempt: fresh keys, signed over the setting (SPEC 10.1).

    Args:
        setting: The round; the caller has checked it (SPEC 9.5).
        site: Who we are.
        identity_key: Whose public key the membership list has.
        demands: Of every sum that the site's input is in.
        random: Where secrets come from.

    Raises:
        RosterError: If the site is not in the roster.
        ContextError: If the membership list has another key for the site.
    """
    if setting.party(site).identity_key != identity_key.public_key().public_bytes_raw():
        raise ContextError(f"the membership list holds another identity key for {site}")
    channel_private, mask_private = random.key(), random.key()
    unsigned = Advertisement(
        site=site,
        channel_key=public_of(channel_private),
        mask_key=public_of(mask_private),
        demands=demands,
        signature=b"",
    )
    return SiteState(
        site=site,
        setting=setting,
        channel_private=channel_private,
        mask_private=mask_private,
        advertisement=replace(unsigned, signature=identity_key.sign(unsigned.signed(setting.context))),
    )


def check_same_setting(state: SiteState, setting: Setting) -> None:
    """Check that an attempt that has begun is still about the same (SPEC 11.4).

    Raises:
        EquivocationError: If it is not.
    """
    if state.setting.context != setting.context:
        raise EquivocationError(
            f"round {setting.round_number}, attempt {setting.attempt} was about something else before",
            remedy="the coordinator changed roster, model or membership within an attempt: tell the consortium",
        )
