"""What a round of secure aggregation is about, put together alike at the coordinator and at every site (SPEC 9.2).

Each end takes what it knows itself from its own records and the rest from the task; ctx0 shows that both know the same.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

from fedmepd.aggregation import Quantisation
from fedmepd.runspec import RunSpec
from protos.terms import Advertise, RoundId
from security.secagg import Party, Segment, Setting


def setting_of(  # noqa: PLR0913  each is known from another place
    task: Advertise,
    round_id: RoundId,
    *,
    consortium: str,
    spec: RunSpec,
    spec_sha256: str,
    identity_keys: Mapping[str, bytes],
    samples: float,
    minimum_cohort: int,
) -> Setting:
    """Return the setting that a task describes.

    Args:
        task: What the coordinator says.
        round_id: Run, round and attempt.
        consortium: Name of the consortium.
        spec: The run's specification.
        spec_sha256: Its hash, hexadecimal.
        identity_keys: Ed25519 public keys on the membership list; of all sites of the roster.
        samples: Training patients of all sites, as the broadcast says; at a site that of the task it trained on.
        minimum_cohort: Fewest sites in a sum by the membership list.

    Raises:
        SecureAggregationError: If the roster or the former contributors are not of the run, or unsorted.
        KeyError: If a site of the roster has no identity key; to be checked before.
    """
    return Setting(
        consortium=consortium,
        run=round_id.run,
        round_number=round_id.round_number,
        attempt=round_id.attempt,
        membership_version=task.membership_version,
        membership_digest=bytes.fromhex(task.membership_digest),
        spec_hash=bytes.fromhex(spec_sha256),
        layout_digest=bytes.fromhex(task.layout_digest),
        formats=format_pairs(spec.formats),
        parties=tuple(
            Party(site=one.site, modalities=one.modalities, identity_key=identity_keys[one.site]) for one in task.roster
        ),
        segments=tuple(Segment(name=one.name, values=one.values, least_open=one.least_open) for one in task.segments),
        broadcast=(*((one.name, bytes.fromhex(one.sha256)) for one in task.broadcast), ("samples", _hash(samples))),
        previous=task.previous,
        run_sites=spec.sites,
        minimum_cohort=minimum_cohort,
    )


def _hash(number: float) -> bytes:
    return hashlib.sha256(struct.pack(">d", number)).digest()


def format_pairs(formats: Quantisation) -> tuple[tuple[float, float], ...]:
    """Return (clip, scale) of all formats in the order of SPEC 9.2."""
    ordered = (formats.delta, formats.weighted, formats.weight, formats.count, formats.scalar)
    return tuple((form.clip, form.scale) for form in ordered)
