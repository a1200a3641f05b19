"""The keys of a round: who advertised what (U1), and every key that follows from it (SPEC 10.1, 10.2, 10.4, 10.6)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from security.encoding import digest, frame, text
from security.errors import RosterError, ShareError, SignatureError, SmallCohortError
from security.keys import verify_signature
from security.masking import Pad
from security.secagg.opens import may_open, threshold
from security.secagg.terms import LEAST_COHORT, Demands, Segment, Setting, check_among

KEY_BYTES = 32
_PROBE = bytes(range(KEY_BYTES))  # with any private key, a public key of low order gives zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement:
    """A site's round keys (SPEC 10.1).

    Attributes:
        site: Whose.
        channel_key: X25519 public key for sealed shares.
        mask_key: X25519 public key for pairwise masks.
        demands: Of every sum that its input is in.
        signature: By the identity key.
    """

    site: str
    channel_key: bytes
    mask_key: bytes
    demands: Demands
    signature: bytes

    @property
    def parts(self) -> tuple[bytes, ...]:
        """What is bound by the signature and by ctx1."""
        return (text(self.site), self.channel_key, self.mask_key, *self.demands.encoded)

    def signed(self, context: bytes) -> bytes:
        """Return what the signature is over."""
        return frame("fedmepd/secagg-advertise", 1, context, *self.parts)


def check_advertisement(setting: Setting, found: Advertisement) -> None:
    """Check one advertisement (SPEC 10.3).

    Raises:
        RosterError: If its site was not asked.
        SignatureError: If it is not signed by the identity key of the membership list, over this setting.
        SmallCohortError: If it demands fewer sites than the membership list allows.
        ShareError: If a key is of low order.
    """
    party = setting.party(found.site)
    if found.demands.minimum < setting.minimum_cohort:
        raise SmallCohortError(
            f"{found.site} demands {found.demands.minimum} sites, the membership list {setting.minimum_cohort}"
        )
    problem = SignatureError(
        f"the keys of {found.site} are not signed by its identity key over this round",
        remedy="the coordinator shows different rounds to different sites, or replaced a key: tell the consortium",
    )
    verify_signature(found.signature, found.signed(setting.context), party.identity_key, problem)
    for key in (found.channel_key, found.mask_key):
        agree(_PROBE, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """U1 with everybody's round keys; `believed` makes one (SPEC 10.2).

    Attributes:
        setting: The round.
        advertisements: Sorted by site.
        context: ctx1, 32 bytes.
    """

    setting: Setting
    advertisements: tuple[Advertisement, ...]
    context: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        keys = (frame("fedmepd/secagg-key", 1, *found.parts) for found in self.advertisements)
        object.__setattr__(self, "context", digest("fedmepd/secagg-keys", 1, self.setting.context, *keys))

    @property
    def sites(self) -> tuple[str, ...]:
        """U1."""
        return tuple(found.site for found in self.advertisements)

    @property
    def threshold(self) -> int:
        """Shares that recover a secret, signatures that settle the survivors (SPEC 9.4)."""
        return threshold(len(self.advertisements))

    def index(self, site: str) -> int:
        """Return a site's place in U1, from 1."""
        return self.sites.index(site) + 1

    def of(self, site: str) -> Advertisement:
        """Return a site's keys.

        Raises:
            RosterError: If it advertised none.
        """
        for found in self.advertisements:
            if found.site == site:
                return found
        raise RosterError(f"{site} advertised no keys")

    def check_open(self, segment: Segment, present: Collection[str]) -> None:
        """Check that a segment may be opened if these sites' inputs are in it, or may still be (SPEC 10.10).

        Raises:
            SmallCohortError: If not, with the reason.
        """
        members = self.setting.members(segment.name, present)
        gone = set(self.setting.members(segment.name, self.setting.previous)) - set(present)
        may_open(
            segment.name,
            {site: self.of(site).demands for site in members},
            asked=len(self.advertisements),
            least_open=segment.least_open,
            gone=len(gone),
        )

    def check_sharers(self, sharers: Sequence[str], *, own: str) -> None:
        """Check U2 (SPEC 10.5).

        Raises:
            RosterError: If it is unsorted, not within U1, too small, or without the site.
        """
        self._check(sharers, self.sites, "the set of sharing sites", own)

    def check_survivors(self, survivors: Sequence[str], sharers: Sequence[str], *, own: str) -> None:
        """Check U3 (SPEC 10.8): sites without a mask in common with us never count as survivors.

        Raises:
            RosterError: If it is unsorted, not within U2, too small, or without the site.
        """
        self._check(survivors, sharers, "the set of survivors", own)

    def _check(self, sites: Sequence[str], within: Sequence[str], what: str, own: str) -> None:
        check_among(sites, within, what)
        if len(sites) < self.threshold:
            raise RosterError(f"{what} has {len(sites)} sites, {self.threshold} of {len(self.sites)} are needed")
        if own not in sites:
            raise RosterError(f"{what} does not hold {own}")


def believed(setting: Setting, unverified: Sequence[Advertisement]) -> KeySet:
    """Return the keys of a round, once they are to be believed (SPEC 10.3).

    Raises:
        RosterError: If U1 is unsorted, has strangers or fewer than 3 sites, or two keys are equal.
        SignatureError: If a signature does not hold.
    """
    check_among([found.site for found in unverified], setting.roster, "the set of keys")
    if len(unverified) < LEAST_COHORT:
        raise RosterError(f"{len(unverified)} sites advertised keys, {LEAST_COHORT} are needed")
    keys = [key for found in unverified for key in (found.channel_key, found.mask_key)]
    if len(set(keys)) != len(keys):
        raise RosterError("two of the round's keys are equal", remedy="a site, or the coordinator, repeats keys")
    for found in unverified:
        check_advertisement(setting, found)
    return KeySet(setting=setting, advertisements=tuple(unverified))


def agree(private: bytes, public: bytes) -> bytes:
    """Return what two X25519 keys have in common (RFC 7748).

    Raises:
        ShareError: If the public key is a point of small order.
    """
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ShareError("a public key of the round is no usable key") from None


def public_of(private: bytes) -> bytes:
    """Return the X25519 public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def channel_key(shared: bytes, context: bytes, sender: str, receiver: str) -> bytes:
    """Return the key of one bundle (SPEC 10.4)."""
    return _derive(shared, context, frame("fedmepd/secagg-channel", 1, text(sender), text(receiver)))


def self_pad(seed: bytes, context: bytes, site: str, segment: str) -> Pad:
    """Return the pad that a site adds for itself (SPEC 10.6)."""
    return Pad(key=_derive(seed, context, frame("fedmepd/secagg-self", 1, text(site), text(segment))), added=True)


def pair_pad(shared: bytes, context: bytes, site: str, peer: str, segment: str) -> Pad:
    """Return the pad that a site applies for a peer, which applies the opposite (SPEC 10.6)."""
    low, high = sorted((site, peer))
    info = frame("fedmepd/secagg-pair", 1, text(low), text(high), text(segment))
    return Pad(key=_derive(shared, context, info), added=site == low)


def commitment(context: bytes, site: str, segment: str, seed: bytes) -> bytes:
    """Return what binds a site to a seed (SPEC 10.4)."""
    return digest("fedmepd/secagg-seed", 1, context, text(site), text(segment), seed)


def _derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, info).derive(secret)
