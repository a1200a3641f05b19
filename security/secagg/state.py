"""What a site remembers of one attempt at a round, as it must be durable before each answer (SPEC 11.4).

Holds secrets: its stored form goes to the disk sealed only (SPEC 11.6). Each step fills in its part once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import ConfigDict, TypeAdapter

from security.errors import EquivocationError
from security.secagg.keys import Advertisement, KeySet
from security.secagg.terms import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a site shares (SPEC 10.4).

    Attributes:
        site: Whose secrets.
        commitments: Per segment of the site, in order.
        sealed: Ciphertext by receiver.
    """

    site: str
    commitments: tuple[bytes, ...]
    sealed: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a site gives to open a sum (SPEC 10.9).

    Attributes:
        site: Whose answer.
        seeds: Shares of survivors' seeds, by site and segment.
        keys: Shares of the mask private keys of sites that dropped out.
    """

    site: str
    seeds: Mapping[str, Mapping[str, bytes]] = field(repr=False)
    keys: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteState:
    """A site in an attempt.

    Attributes:
        site: Its id.
        setting: The round.
        channel_private: X25519.
        mask_private: X25519.
        advertisement: R0.
        keys: U1, once it is known.
        seeds: Per segment of the site, in order.
        bundle: R1.
        sharers: U2, once it is known.
        shares: By sender: its mask key's share, then its seeds' in order; the site's own included.
        survivors: U3, once it is known.
        confirmation: R3, a signature.
        answer: R4.
    """

    site: str
    setting: Setting
    channel_private: bytes = field(repr=False)
    mask_private: bytes = field(repr=False)
    advertisement: Advertisement
    keys: KeySet | None = None
    seeds: tuple[bytes, ...] = field(default=(), repr=False)
    bundle: Bundle | None = None
    sharers: tuple[str, ...] = ()
    shares: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict, repr=False)
    survivors: tuple[str, ...] = ()
    confirmation: bytes = b""
    answer: Answer | None = None


def shared(state: SiteState) -> KeySet:
    """Return U1 and its keys.

    Raises:
        EquivocationError: Before the site has shared its secrets.
    """
    if state.keys is None:
        raise EquivocationError("this site has not shared its secrets")
    return state.keys


def check_repeated(same: bool, what: str) -> None:  # noqa: FBT001  one meaning
    """Check that a step that was done is asked for again as it was (SPEC 11.4).

    Raises:
        EquivocationError: If it is not.
    """
    if not same:
        raise EquivocationError(
            f"{what} was answered before in this attempt", remedy="one answer is given per attempt, and never another"
        )


_STATE = TypeAdapter(tuple[SiteState], config=ConfigDict(ser_json_bytes="hex", val_json_bytes="hex"))


def dump_state(state: SiteState) -> bytes:
    """Return the stored form; secret."""
    return _STATE.dump_json((state,))


def load_state(stored: bytes) -> SiteState:
    """Read the stored form, with all checks of its parts."""
    return _STATE.validate_json(stored)[0]
