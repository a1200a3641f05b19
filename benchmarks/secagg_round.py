"""A round of secure aggregation as the coordinator has it when it opens the sum, made up without its sites."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from security.secagg import Advertisement, Answer, Demands, KeySet, Segment, Setting, Transcript
from security.secagg.keys import KEY_BYTES, commitment, public_of
from security.shamir import split
from tests.security.secagg.cohort import setting_of

MODALITIES = ("flair", "t1", "t1ce", "t2")
LENIENT = Demands(minimum=3)


def one_segment(values: int) -> tuple[Segment, ...]:
    """Return the segment of all sites alone."""
    return (Segment(name="common", values=values, least_open=0),)


def all_segments(values: int) -> tuple[Segment, ...]:
    """Return a segment for each modality and that of all sites, of so many values each."""
    owned = tuple(Segment(name=f"modality/{name}", values=values, least_open=0) for name in MODALITIES)
    return (*owned, *one_segment(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What the sites of a round would know.

    Attributes:
        mask_keys: Private, by site.
        seeds: By site and segment.
        transcript: What the coordinator has of it.
    """

    mask_keys: Mapping[str, bytes] = field(repr=False)
    seeds: Mapping[tuple[str, str], bytes] = field(repr=False)
    transcript: Transcript


def made_up(sites: int, dropped: int, segments: Sequence[Segment]) -> Secrets:
    """Return a round in which the last sites dropped out after they shared, and all others answered."""
    names = [f"s{n:03d}" for n in range(sites)]
    setting = setting_of(dict.fromkeys(names, MODALITIES), segments=tuple(segments))
    mask_keys = {name: secrets.token_bytes(KEY_BYTES) for name in names}
    keys = KeySet(setting=setting, advertisements=tuple(_advertised(name, mask_keys[name]) for name in names))
    seeds = {(name, segment.name): secrets.token_bytes(KEY_BYTES) for name in names for segment in segments}
    commitments = {
        name: tuple(commitment(keys.context, name, segment.name, seeds[name, segment.name]) for segment in segments)
        for name in names
    }
    survivors = tuple(names[: sites - dropped])
    transcript = Transcript(
        keys=keys,
        sharers=tuple(names),
        survivors=survivors,
        commitments=commitments,
        answers=_answers(setting, keys, survivors, mask_keys, seeds),
    )
    return Secrets(mask_keys=mask_keys, seeds=seeds, transcript=transcript)


def _advertised(site: str, mask_key: bytes) -> Advertisement:
    channel = secrets.token_bytes(KEY_BYTES)  # opens nothing: bundles are not made
    return Advertisement(
        site=site, channel_key=channel, mask_key=public_of(mask_key), demands=LENIENT, signature=bytes(64)
    )


def _answers(
    setting: Setting,
    keys: KeySet,
    survivors: Sequence[str],
    mask_keys: Mapping[str, bytes],
    seeds: Mapping[tuple[str, str], bytes],
) -> tuple[Answer, ...]:
    shares = {pair: _shared(keys, seed) for pair, seed in seeds.items() if pair[0] in survivors}
    lost = {site: _shared(keys, key) for site, key in mask_keys.items() if site not in survivors}
    return tuple(
        Answer(
            site=site,
            seeds={
                peer: {segment.name: shares[peer, segment.name][index] for segment in setting.segments}
                for peer in survivors
            },
            keys={peer: found[index] for peer, found in lost.items()},
        )
        for index, site in enumerate(survivors)
    )


def _shared(keys: KeySet, secret: bytes) -> tuple[bytes, ...]:
    return split(secret, threshold=keys.threshold, count=len(keys.sites))
