"""The coordinator's part: check what sites send, then recover the pads that still cover the sum (SPEC 11.1, 11.2).

The coordinator holds no secret. What it recovers are seeds of sites whose input is in the sum and mask keys of sites
whose input is not, never both of one site, as long as fewer sites collude than the threshold says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import comb
from random import Random

from security.errors import OpeningError, ShareError, SmallCohortError
from security.masking import Pad
from security.secagg.keys import KeySet, agree, commitment, pair_pad, public_of, self_pad
from security.secagg.state import Answer, Bundle
from security.secagg.terms import COMMON, Segment
from security.shamir import SHARE_BYTES, Recovery, check_share, value_at

_TAG_BYTES = 16
_HASH_BYTES = 32
_TRIES = 512  # sets of answers that are tried where shares contradict a commitment
_Check = Callable[[bytes], bool]


def check_bundle(keys: KeySet, bundle: Bundle) -> None:
    """Check the form of a site's bundle; its content is sealed (SPEC 10.4).

    Raises:
        RosterError: If the site advertised no keys.
        ShareError: If receivers or lengths are wrong.
    """
    own = len(keys.setting.segments_of(keys.of(bundle.site).site))
    others = [site for site in keys.sites if site != bundle.site]
    if sorted(bundle.sealed) != others:
        raise ShareError(f"the bundle of {bundle.site} is not for the other sites of the round")
    size = (1 + own) * SHARE_BYTES + _TAG_BYTES
    if any(len(sealed) != size for sealed in bundle.sealed.values()):
        raise ShareError(f"the bundle of {bundle.site} has a part that is not of {size} bytes")
    if len(bundle.commitments) != own or any(len(found) != _HASH_BYTES for found in bundle.commitments):
        raise ShareError(f"the bundle of {bundle.site} has not {own} commitments of {_HASH_BYTES} bytes")


def check_answer(keys: KeySet, sharers: Sequence[str], survivors: Sequence[str], answer: Answer) -> None:
    """Check that an answer holds shares of the right kind for each site; which segments it opens is the site's to say.

    Raises:
        RosterError: If the site advertised no keys.
        ShareError: If a share is malformed, of the wrong kind, or of a segment that its site is no member of.
    """
    keys.of(answer.site)
    for site, found in answer.seeds.items():
        own = {segment.name for segment in keys.setting.segments_of(site)} if site in survivors else set()
        if odd := sorted(set(found) - own):
            raise ShareError(f"{answer.site} answers with a share of {site} for segment {odd[0]} that is not wanted")
    for site in answer.keys:
        if site in survivors or site not in sharers:
            raise ShareError(f"{answer.site} answers with a share of the mask key of {site}, which did not drop out")
    for share in (*answer.keys.values(), *(share for found in answer.seeds.values() for share in found.values())):
        check_share(share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What the coordinator has of a round when it opens the sum.

    Attributes:
        keys: U1 and its keys.
        sharers: U2.
        survivors: U3.
        commitments: Per segment of the site, by site of U2.
        answers: R4, checked by `check_answer`.
    """

    keys: KeySet
    sharers: tuple[str, ...]
    survivors: tuple[str, ...]
    commitments: Mapping[str, tuple[bytes, ...]]
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What takes the masks off.

    Attributes:
        contributors: Sites in the sum, by open segment.
        pads: What to apply to the sum of the masked inputs, by open segment.
        closed: Why a segment stays closed.
        liars: Sites that answered with a wrong share.
    """

    contributors: Mapping[str, tuple[str, ...]]
    pads: Mapping[str, tuple[Pad, ...]] = field(repr=False)
    closed: Mapping[str, str]
    liars: tuple[str, ...] = ()


def recover(transcript: Transcript) -> Opening:
    """Recover seeds and mask keys, and with them the pads that cover the sum.

    Raises:
        OpeningError: If the segment of all sites stays closed; it names what could not be recovered.
    """
    keys, helper = transcript.keys, _Recoverer(transcript)
    contributors: dict[str, tuple[str, ...]] = {}
    pads: dict[str, tuple[Pad, ...]] = {}
    failed: dict[str, SmallCohortError | OpeningError] = {}
    for segment in keys.setting.segments:
        survivors = keys.setting.members(segment.name, transcript.survivors)
        try:
            keys.check_open(segment, transcript.survivors)
            pads[segment.name] = tuple(helper.pads(segment, survivors))
        except (SmallCohortError, OpeningError) as error:
            failed[segment.name] = error
        else:
            contributors[segment.name] = survivors
    if common := failed.get(COMMON):
        guilty = common.sites if isinstance(common, OpeningError) else ()
        raise OpeningError(f"the sum cannot be opened: {common.problem}", sites=guilty)
    closed = {name: error.problem for name, error in failed.items()}
    return Opening(contributors=contributors, pads=pads, closed=closed, liars=tuple(sorted(helper.liars)))


class _Recoverer:
    """Recovers secrets from the answers, each once."""

    def __init__(self, transcript: Transcript) -> None:
        self._found = transcript
        self._keys = transcript.keys
        self._recoveries: dict[tuple[int, ...], Recovery] = {}
        self._trusted: tuple[str, ...] = ()
        self.liars: set[str] = set()
        self._mask_keys: dict[str, bytes] = {}
        self._common: dict[tuple[str, str], bytes] = {}

    def pads(self, segment: Segment, survivors: Sequence[str]) -> Iterator[Pad]:
        """Yield the pads to be applied to a segment's sum (SPEC 11.2)."""
        keys, setting = self._keys, self._keys.setting
        for site in survivors:
            yield self_pad(self._seed(site, segment.name), keys.context, site, segment.name).removed
        dropped = set(setting.members(segment.name, self._found.sharers)) - set(survivors)
        for gone in sorted(dropped):
            for site in survivors:
                yield pair_pad(self._agreed(gone, site), keys.context, site, gone, segment.name).removed

    def _seed(self, site: str, segment: str) -> bytes:
        names = [found.name for found in self._keys.setting.segments_of(site)]
        wanted = self._found.commitments[site][names.index(segment)]
        shares = {a.site: a.seeds[site][segment] for a in self._found.answers if segment in a.seeds.get(site, ())}
        return self._secret(
            shares,
            lambda seed: commitment(self._keys.context, site, segment, seed) == wanted,
            site,
            f"the seed of {site} for segment {segment}",
        )

    def _agreed(self, gone: str, site: str) -> bytes:
        """Return what a site that dropped out has in common with a survivor."""
        if (gone, site) not in self._common:
            self._common[gone, site] = agree(self._mask_key(gone), self._keys.of(site).mask_key)
        return self._common[gone, site]

    def _mask_key(self, site: str) -> bytes:
        if site not in self._mask_keys:
            public = self._keys.of(site).mask_key
            shares = {answer.site: answer.keys[site] for answer in self._found.answers if site in answer.keys}
            self._mask_keys[site] = self._secret(
                shares, lambda private: public_of(private) == public, site, f"the mask key of {site}"
            )
        return self._mask_keys[site]

    def _secret(self, shares: Mapping[str, bytes], fits: _Check, site: str, what: str) -> bytes:
        """Recover one secret; where shares are wrong, try others until the result is what was committed to."""
        needed = self._keys.threshold
        if len(shares) < needed:
            raise OpeningError(f"{what} has {len(shares)} shares, {needed} are needed", sites=(site,))
        honest = {one: share for one, share in shares.items() if one not in self.liars}
        for chosen in self._choices(sorted(honest if len(honest) >= needed else shares)):
            try:
                secret = self._recovery(chosen).secret([shares[one] for one in chosen])
            except ShareError:
                continue
            if fits(secret):
                self._note(chosen, shares)
                return secret
        raise OpeningError(f"{what} cannot be recovered: wrong shares were dealt or answered", sites=(site,))

    def _note(self, chosen: tuple[str, ...], shares: Mapping[str, bytes]) -> None:
        """Remember whose shares fitted; name those whose share is off the polynomial, if that is beyond framing.

        Another polynomial of the same secret meets the true one in at most t - 2 points, so more sites would have had
        to lie alike than are named.
        """
        if chosen == self._trusted:
            return
        self._trusted = chosen
        points = {self._keys.index(one): shares[one] for one in chosen}
        rest = set(shares) - set(chosen)
        off = {one for one in rest if value_at(points, self._keys.index(one)) != check_share(shares[one])}
        if len(shares) - len(off) - (self._keys.threshold - 2) > len(off):
            self.liars |= off

    def _choices(self, sites: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Yield sets of as many sites as are needed: who told the truth before, then all sets, or some of too many."""
        needed = self._keys.threshold
        if self._trusted and set(self._trusted) <= set(sites):
            yield self._trusted
        if comb(len(sites), needed) <= _TRIES:
            yield from combinations(sites, needed)
            return
        yield tuple(sites[:needed])
        draw = Random(self._keys.context)  # noqa: S311  a search order, no secret
        for _ in range(_TRIES):
            yield tuple(sorted(draw.sample(sites, needed)))

    def _recovery(self, sites: tuple[str, ...]) -> Recovery:
        points = tuple(self._keys.index(site) for site in sites)
        if points not in self._recoveries:
            self._recoveries[points] = Recovery(points)
        return self._recoveries[points]
