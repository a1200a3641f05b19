"""The steps of secure aggregation as SPEC 10 and 11 have them: slow, obvious, and independent of `security`.

The known answers `vectors/secagg_*.json` are made with it (`make_secagg_vectors`). All that is random is passed in.
It checks what parties tell each other (10.3, 10.5, 10.8 and 10.9; 10.10 stands in `slow_demands`), not what a site
knows of its surroundings (9.5), and keeps nothing (11.4 to 11.6). It takes no care of secrets in memory, of time or of
speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.security.slow_demands import Demands, is_open, within_bounds
from tests.security.slow_terms import (
    SHARE_BYTES,
    Segment,
    Setting,
    Violation,
    digest,
    frame,
    hkdf,
    integer,
    low_order,
    prg,
    require,
    shamir_recover,
    shamir_share,
    signed_by,
    threshold,
    well_formed,
    x25519,
    x25519_public,
)

RING = 2**32

# SPEC 10: frames and keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement:
    """SPEC 10.1."""

    site: str
    channel: bytes
    mask: bytes
    demands: Demands
    signature: bytes

    def parts(self) -> tuple[bytes | str, ...]:
        """What 10.1 signs and 10.2 hashes of it."""
        demands = integer(self.demands.minimum), integer(self.demands.colluders)
        return (self.site, self.channel, self.mask, *demands)


def advertise_message(ctx0: bytes, said: Advertisement) -> bytes:
    """SPEC 10.1."""
    return frame("fedmepd/secagg-advertise", 1, ctx0, *said.parts())


def keys_digest(ctx0: bytes, u1: list[Advertisement]) -> bytes:
    """ctx1 (SPEC 10.2)."""
    return digest("fedmepd/secagg-keys", 1, ctx0, *(frame("fedmepd/secagg-key", 1, *a.parts()) for a in u1))


def channel_key(ctx1: bytes, sender: str, receiver: str, shared: bytes) -> bytes:
    """SPEC 10.4; shared is X25519 of the two channel keys."""
    return hkdf(shared, ctx1, frame("fedmepd/secagg-channel", 1, sender, receiver))


def share_associated(ctx1: bytes, sender: str, receiver: str) -> bytes:
    """SPEC 10.4."""
    return frame("fedmepd/secagg-share", 1, ctx1, sender, receiver)


def commitment(ctx1: bytes, site: str, segment: str, seed: bytes) -> bytes:
    """SPEC 10.4."""
    return digest("fedmepd/secagg-seed", 1, ctx1, site, segment, seed)


def self_key(ctx1: bytes, site: str, segment: str, seed: bytes) -> bytes:
    """SPEC 10.6."""
    return hkdf(seed, ctx1, frame("fedmepd/secagg-self", 1, site, segment))


def pair_key(ctx1: bytes, one: str, other: str, segment: str, shared: bytes) -> bytes:
    """SPEC 10.6; shared is X25519 of the two mask keys."""
    return hkdf(shared, ctx1, frame("fedmepd/secagg-pair", 1, min(one, other), max(one, other), segment))


def survivors_message(ctx1: bytes, u2: list[str], u3: list[str]) -> bytes:
    """SPEC 10.8."""
    sharers, inputs = frame("fedmepd/secagg-sharers", 1, *u2), frame("fedmepd/secagg-inputs", 1, *u3)
    return frame("fedmepd/secagg-survivors", 1, ctx1, sharers, inputs)


def require_set(sites: list[str], within: list[str], clause: str, least: int, site: str) -> None:
    """What 10.3, 10.5 and 10.8 say of U1, U2 and U3."""
    require(sites == sorted(set(sites)), clause, "not sorted, or not distinct")
    require(set(sites) <= set(within), clause, "names a site that it must not")
    require(len(sites) >= least, clause, f"fewer than {least} sites")
    require(site in sites, clause, f"{site} is missing")


# SPEC 10: a site


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """What a site draws (SPEC 10.1, 10.4, 12.1).

    Seeds are by segment. Of coefficients there is a list c1 to c(t-1) per secret: first the mask private key, then the
    seeds in the order of the site's segments.
    """

    channel: bytes
    mask: bytes
    seeds: dict[str, bytes]
    coefficients: list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """SPEC 10.4: sealed shares by receiver, commitments by segment."""

    sealed: dict[str, bytes]
    commitments: dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """SPEC 10.9: shares of seeds by site and segment, of mask private keys by site."""

    seeds: dict[tuple[str, str], bytes]
    masks: dict[str, bytes]


class Site:
    """One site in one attempt; each step is called once, in order."""

    def __init__(self, name: str, identity: bytes, setting: Setting, demands: Demands, draws: Draws) -> None:
        self.name, self.setting, self.demands, self.draws = name, setting, demands, draws
        self.identity = Ed25519PrivateKey.from_private_bytes(identity)
        self.ctx0 = setting.ctx0()
        self.segments = [g for g in setting.segments if setting.membership.has(name, g.name)]
        self.common = next(g for g in setting.segments if g.name == "common")

    def advertise(self) -> Advertisement:
        """SPEC 10.1."""
        channel, mask = x25519_public(self.draws.channel), x25519_public(self.draws.mask)
        said = Advertisement(site=self.name, channel=channel, mask=mask, demands=self.demands, signature=b"")
        self.own = replace(said, signature=self.identity.sign(advertise_message(self.ctx0, said)))
        return self.own

    def share(self, keys: list[Advertisement]) -> Bundle:
        """SPEC 10.3 and 10.4."""
        self.check_keys(keys)
        self.u1 = [a.site for a in keys]
        self.keys = {a.site: a for a in keys}
        self.t = threshold(len(keys))
        self.ctx1 = keys_digest(self.ctx0, keys)
        require(all(len(c) == self.t - 1 for c in self.draws.coefficients), "12.1", "not t - 1 coefficients")
        peers = [peer for peer in self.u1 if peer != self.name]
        return Bundle(
            sealed={peer: self.seal(peer) for peer in peers},
            commitments={g: commitment(self.ctx1, self.name, g, seed) for g, seed in self.draws.seeds.items()},
        )

    def check_keys(self, keys: list[Advertisement]) -> None:
        """SPEC 10.3."""
        u1 = [a.site for a in keys]
        require_set(u1, list(self.setting.roster), "10.3", 3, self.name)
        require(self.own in keys, "10.3", "the site's own keys were exchanged")
        for a in keys:
            listed, message = self.setting.membership.members[a.site].identity_key, advertise_message(self.ctx0, a)
            require(signed_by(listed, a.signature, message), "10.3", f"{a.site}'s signature does not hold")
            require(within_bounds(self.setting, a.demands), "10.3", f"{a.site} demands what it must not")
        public = [key for a in keys for key in (a.channel, a.mask)]
        require(len(set(public)) == len(public), "10.3", "a public key stands there twice")
        require(not any(map(low_order, public)), "10.3", "a public key is of low order")
        self.demanded = {a.site: a.demands for a in keys}
        require(is_open(self.setting, self.common, u1, self.demanded), "10.3", "too few for common")

    def plaintext(self, receiver: str) -> bytes:
        """Shares of all secrets for a site (SPEC 10.4)."""
        secrets = [self.draws.mask, *(self.draws.seeds[g.name] for g in self.segments)]
        x = self.u1.index(receiver) + 1
        return b"".join(shamir_share(s, c, x) for s, c in zip(secrets, self.draws.coefficients, strict=True))

    def seal(self, receiver: str) -> bytes:
        """SPEC 10.4."""
        key = channel_key(self.ctx1, self.name, receiver, x25519(self.draws.channel, self.keys[receiver].channel))
        associated = share_associated(self.ctx1, self.name, receiver)
        return ChaCha20Poly1305(key).encrypt(bytes(12), self.plaintext(receiver), associated)

    def unseal(self, sender: str, sealed: bytes) -> list[bytes] | None:
        """The shares in a bundle; None if it counts as not received (SPEC 10.5)."""
        key = channel_key(self.ctx1, sender, self.name, x25519(self.draws.channel, self.keys[sender].channel))
        try:
            text = ChaCha20Poly1305(key).decrypt(bytes(12), sealed, share_associated(self.ctx1, sender, self.name))
        except InvalidTag:
            return None
        shares = [text[at : at + SHARE_BYTES] for at in range(0, len(text), SHARE_BYTES)]
        count = 1 + sum(self.setting.membership.has(sender, g.name) for g in self.setting.segments)
        return shares if len(shares) == count and all(map(well_formed, shares)) else None

    def mask(self, u2: list[str], sealed: dict[str, bytes], q: dict[str, list[int]]) -> dict[str, list[int]]:
        """SPEC 10.5 and 10.6; q by segment."""
        require_set(u2, self.u1, "10.5", self.t, self.name)
        require(is_open(self.setting, self.common, u2, self.demanded), "10.5", "too few for common")
        self.u2 = u2
        opened = {peer: self.unseal(peer, sealed[peer]) for peer in u2 if peer != self.name and peer in sealed}
        own = self.plaintext(self.name)
        opened[self.name] = [own[at : at + SHARE_BYTES] for at in range(0, len(own), SHARE_BYTES)]
        self.held = {peer: shares for peer, shares in opened.items() if shares is not None}
        return {g.name: self.mask_segment(g, q[g.name]) for g in self.segments}

    def mask_segment(self, segment: Segment, q: list[int]) -> list[int]:
        """SPEC 10.6."""
        require(len(q) == segment.values, "9.1", "a segment has another number of values")
        y = add(q, prg(self_key(self.ctx1, self.name, segment.name, self.draws.seeds[segment.name]), segment.values))
        for peer in self.u2:
            if peer != self.name and self.setting.membership.has(peer, segment.name):
                shared = x25519(self.draws.mask, self.keys[peer].mask)
                pair = prg(pair_key(self.ctx1, self.name, peer, segment.name, shared), segment.values)
                y = add(y, pair, 1 if peer > self.name else -1)
        return y

    def confirm(self, u3: list[str]) -> bytes:
        """SPEC 10.8."""
        require_set(u3, self.u2, "10.8", self.t, self.name)
        self.u3 = u3
        self.survivors = survivors_message(self.ctx1, self.u2, u3)
        return self.identity.sign(self.survivors)

    def open_segments(self) -> list[Segment]:
        """SPEC 10.10."""
        return [g for g in self.setting.segments if is_open(self.setting, g, self.u3, self.demanded)]

    def unmask(self, signatures: dict[str, bytes]) -> Answer:
        """SPEC 10.9."""
        listed = self.setting.membership.members
        held = [s for s in signatures if s in self.u3 and s != self.name]
        held = [s for s in held if signed_by(listed[s].identity_key, signatures[s], self.survivors)]
        require(1 + len(held) >= self.t, "10.9", "fewer than t signatures hold")
        opened = [g.name for g in self.open_segments()]
        require("common" in opened, "10.9", "common is not open")
        seeds: dict[tuple[str, str], bytes] = {}
        masks: dict[str, bytes] = {}
        for peer, (mask_share, *seed_shares) in self.held.items():
            if peer not in self.u3:
                masks[peer] = mask_share
                continue
            names = [g.name for g in self.setting.segments if self.setting.membership.has(peer, g.name)]
            seeds |= {(peer, g): s for g, s in zip(names, seed_shares, strict=True) if g in opened}
        return Answer(seeds=seeds, masks=masks)


def add(one: list[int], other: list[int], sign: int = 1) -> list[int]:
    """Value by value, modulo 2^32."""
    return [(a + sign * b) % RING for a, b in zip(one, other, strict=True)]


# SPEC 11: the coordinator


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What the coordinator has after R4."""

    setting: Setting
    keys: list[Advertisement]
    bundles: dict[str, Bundle]
    masked: dict[str, dict[str, list[int]]]
    answers: dict[str, Answer]


class Opening:
    """SPEC 11.1 to 11.3."""

    def __init__(self, collected: Collected) -> None:
        self.all, self.has = collected, collected.setting.membership.has
        self.ctx1 = keys_digest(collected.setting.ctx0(), collected.keys)
        self.u1 = [a.site for a in collected.keys]
        self.mask_public = {a.site: a.mask for a in collected.keys}
        self.t = threshold(len(self.u1))
        self.u2, self.u3 = sorted(collected.bundles), sorted(collected.masked)
        require(len(collected.answers) >= self.t, "11.1", "fewer than t answers")
        self.masks = {d: self.mask_private(d) for d in self.u2 if d not in self.u3}

    def fitting(self, shares: dict[str, bytes], fits: Callable[[bytes], bool], whose: str) -> bytes:
        """The secret that fits, from any t of the shares (SPEC 11.1)."""
        for chosen in combinations(sorted(shares), self.t):
            try:
                secret = shamir_recover({self.u1.index(s) + 1: shares[s] for s in chosen})
            except Violation:
                continue
            if fits(secret):
                return secret
        raise Violation("11.1", f"{whose} could not be recovered")

    def mask_private(self, site: str) -> bytes:
        """SPEC 11.1."""
        shares = {s: a.masks[site] for s, a in self.all.answers.items() if site in a.masks}
        return self.fitting(shares, lambda k: x25519_public(k) == self.mask_public[site], f"{site}'s mask key")

    def seed(self, site: str, segment: str) -> bytes | None:
        """A survivor's seed; None if fewer than t sites gave a share of it (SPEC 11.1, 11.2)."""
        shares = {s: a.seeds[site, segment] for s, a in self.all.answers.items() if (site, segment) in a.seeds}
        committed = self.all.bundles[site].commitments[segment]
        if len(shares) < self.t:
            return None
        return self.fitting(
            shares, lambda b: commitment(self.ctx1, site, segment, b) == committed, f"{site}'s seed for {segment}"
        )

    def segment_sum(self, segment: Segment) -> list[int] | None:
        """SPEC 11.2; None if the segment stays closed."""
        survivors = [i for i in self.u3 if self.has(i, segment.name)]
        seeds = {i: self.seed(i, segment.name) for i in survivors}
        total = [0] * segment.values
        for i, seed in seeds.items():
            if seed is None:
                return None
            total = add(total, self.all.masked[i][segment.name])
            total = add(total, prg(self_key(self.ctx1, i, segment.name, seed), segment.values), -1)
            for d in self.masks:
                if self.has(d, segment.name):
                    shared = x25519(self.masks[d], self.mask_public[i])
                    pair = prg(pair_key(self.ctx1, i, d, segment.name, shared), segment.values)
                    total = add(total, pair, -1 if d > i else 1)
        return total if survivors else None

    def sums(self, contributors_at: dict[str, int]) -> dict[str, list[int]]:
        """All opened sums by segment (SPEC 11.2, 11.3); `contributors_at` has the places of the first scalars."""
        found = {g.name: self.segment_sum(g) for g in self.all.setting.segments}
        sums = {name: total for name, total in found.items() if total is not None}
        require("common" in sums, "11.2", "common stays closed")
        for name, total in sums.items():
            count = sum(self.has(i, name) for i in self.u3)
            require(total[contributors_at[name]] == count, "11.3", f"{name} does not say {count} contributors")
        return sums
