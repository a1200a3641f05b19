"""The facts of a run (run.json): what was run, by whom, on which patients; and that a resumed run still has them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedmepd import __version__
from fedmepd.cohorts import Case
from fedmepd.cohorts.cache import content_hash
from fedmepd.config import Config
from fedmepd.errors import RunError
from fedmepd.federation import Federation, FederationMember
from fedmepd.sections import SERVER_ID

_PARTS = ("train", "validate", "test")


def describe(config: Config, federation: Federation, *, known: Mapping[str, Any], cache: Path) -> dict[str, Any]:
    """Return the facts of a run, keeping what an interrupted start of it wrote.

    Args:
        config: Its configuration.
        federation: Its members.
        known: run.json as it stands; empty for a new run.
        cache: Folder of the cache, which remembers the hashes of files.

    Raises:
        RunError: If a resumed run's patients changed, or fell into other parts, since it began.
    """
    members = [describe_member(member, cache) for member in federation.members]
    for before, now in zip(known.get("members", members), members, strict=True):
        _check_same(before, now)
    return {
        "schema": 1,
        "name": config.run.name,
        "created": known.get("created", datetime.now(UTC).isoformat(timespec="seconds")),
        "finished": None,
        "seconds": known.get("seconds", 0.0),
        "task": federation.task.to_dict(),
        "rounds": config.run.rounds,
        "seed": config.run.seed,
        "preset": config.run.preset,
        "methods": list(config.run.methods),
        "members": members,
        "network": {
            "width": config.width,
            "crop": config.training.crop,
            "parameters": known.get("network", {}).get("parameters", {}),
        },
        "privacy": "none",
        "software": {"fedmepd": __version__, "torch": torch.__version__},
    }


def parameters_of(network: nn.Module) -> dict[str, int]:
    """Count the parameters of each part of a network."""
    return {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}


def describe_member(member: FederationMember, cache: Path) -> dict[str, Any]:
    """Return the facts of one member: who it is, what it owns, and its cases with a digest of each."""
    patients = {part: getattr(member.patients, part) for part in _PARTS}
    return {
        "id": member.id,
        "role": "server" if member.id == SERVER_ID else "site",
        "modalities": list(member.modalities),
        **{part: len(cases) for part, cases in patients.items()},
        "cases": {part: {case.case_id: _digest(case, cache) for case in p.cases} for part, p in patients.items()},
    }


def _digest(case: Case, cache: Path) -> str:
    """Hash the contents of a case's files."""
    paths = [*(volume.path for volume in case.images.values()), *([case.label.path] if case.label else [])]
    return hashlib.sha256("".join(content_hash(path, cache) for path in paths).encode()).hexdigest()[:16]


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for part in _PARTS:
        old, new = before["cases"][part], now["cases"][part]
        changed = sorted(case for case in old.keys() | new.keys() if old.get(case) != new.get(case))
        if changed:
            raise RunError(
                f"member {now['id']!r}: case {changed[0]!r} of its {part} part is not as it was when the run began",
                remedy="restore the cohort, or start a new run",
            )
