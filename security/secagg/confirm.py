"""R3: sign who survived; two views of the survivors cannot both get enough signatures (SPEC 10.8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from security.encoding import frame, text
from security.errors import EquivocationError, RosterError, SignatureError
from security.keys import verify_signature
from security.secagg.keys import KeySet
from security.secagg.state import SiteState, check_repeated, shared


def confirm(state: SiteState, survivors: Sequence[str], identity_key: Ed25519PrivateKey) -> SiteState:
    """Sign who survived (SPEC 10.8).

    Raises:
        EquivocationError: If other survivors were signed before, or no input was masked.
        RosterError: If U3 is not what it must be.
    """
    keys = shared(state)
    if not state.sharers:
        raise EquivocationError("this site has not masked its input")
    if state.survivors:
        check_repeated(state.survivors == tuple(survivors), "another set of survivors")
        return state
    keys.check_survivors(survivors, state.sharers, own=state.site)
    signature = identity_key.sign(survivors_bytes(keys, state.sharers, survivors))
    return replace(state, survivors=tuple(survivors), confirmation=signature)


def survivors_bytes(keys: KeySet, sharers: Sequence[str], survivors: Sequence[str]) -> bytes:
    """Return what a confirmation signs."""
    return frame(
        "fedmepd/secagg-survivors",
        1,
        keys.context,
        frame("fedmepd/secagg-sharers", 1, *(text(site) for site in sharers)),
        frame("fedmepd/secagg-inputs", 1, *(text(site) for site in survivors)),
    )


def check_confirmation(
    keys: KeySet, sharers: Sequence[str], survivors: Sequence[str], site: str, signature: bytes
) -> None:
    """Check a site's signature over U2 and U3.

    Raises:
        RosterError: If the site is no survivor.
        SignatureError: If the signature is over something else.
    """
    if site not in survivors:
        raise RosterError(f"{site} confirms survivors without being one")
    problem = SignatureError(
        f"{site} has not signed these survivors",
        remedy="the coordinator shows different survivors to different sites: tell the consortium",
    )
    key = keys.setting.party(site).identity_key
    verify_signature(signature, survivors_bytes(keys, sharers, survivors), key, problem)
