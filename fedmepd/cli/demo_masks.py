"""Secure aggregation's masks for the demonstration of a leak: SPEC 10.6 and 10.7, without the exchange of messages.

Keys, seeds and context come from the demonstration's seed, so that it can be repeated; in a federation they come from
the operating system's random source at each site (SPEC 10.1, 10.4) and the context from the round (SPEC 10.2). How
pads follow from them, and what they do to the integers, is `security`'s own code. Each draw has keys of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from fedmepd.aggregation import Contribution
from security.masking import Masker, Pad
from security.secagg.keys import agree, pair_pad, public_of, self_pad


class DemoMasks:
    """Masks contributions as sites would.

    Args:
        seed: What all keys follow from.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, contributions: Sequence[Contribution], draw: int) -> list[Contribution]:
        """Return what the sites would send, under the keys of one draw."""
        keys = {c.site: self._secret(draw, "mask key", c.site) for c in contributions}
        public = {site: public_of(key) for site, key in keys.items()}
        sent = []
        for own in contributions:
            common = {c.site: agree(keys[own.site], public[c.site]) for c in contributions if c.site != own.site}
            vectors = {}
            for segment, vector in own.vectors.items():
                peers = [c.site for c in contributions if c.site != own.site and segment in c.vectors]
                pairs = [pair_pad(common[peer], self._context(draw), own.site, peer, segment) for peer in peers]
                vectors[segment] = vector.copy()
                Masker([self.own_pad(draw, own.site, segment), *pairs]).apply(vectors[segment])
            sent.append(Contribution(site=own.site, vectors=vectors))
        return sent

    def own_pad(self, draw: int, site: str, segment: str) -> Pad:
        """Return the pad that a site adds for itself, which is taken off when a sum is opened."""
        return self_pad(self._secret(draw, "seed", site, segment), self._context(draw), site, segment)

    def _context(self, draw: int) -> bytes:
        return self._secret(draw, "context")

    def _secret(self, draw: int, *parts: str) -> bytes:
        return sha256("\x1f".join(("fedmepd demo-leak", str(self._seed), str(draw), *parts)).encode()).digest()
