"""Anchors that are released with noise, in few rounds, one vector per patient: what the server's patients are behind.

Guarantees: prototypes leave this module through the noised release only; a patient with several cases is one row in it;
in every other round, and where a release is not permitted, the anchors stay exactly as they are. Averaging over
releases happens after the noise. It does not account for anything, and it is no protection of the weights: they are
private only if they were trained so (`fedmepd.private_training`, security/SPEC.md 14 and 15).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedmepd.anchors import Anchors, PrototypeTable, smooth
from fedmepd.errors import ConfigError
from fedmepd.noise import Randomness
from fedmepd.plan import Plan
from fedmepd.sections import AnchorPrivacy
from fedmepd.seeds import seed_of
from fedmepd.spending import release_rounds
from fedmepd.training import Learner

FloatArray = npt.NDArray[np.float32]
ReleasedHook = Callable[[str], None]


@runtime_checkable
class Released(Protocol):
    """Noised anchors, one per class."""

    @property
    def levels(self) -> Sequence[npt.NDArray[np.floating]]:
        """Level l at position l-1: [class, 1, channel]."""
        ...

    @property
    def weights(self) -> npt.NDArray[np.floating]:
        """How much stands behind each [class, 1], noised as well; 0 for nothing."""
        ...


@runtime_checkable
class NoisyRelease(Protocol):
    """The mechanism, with its source of randomness already inside."""

    def __call__(
        self,
        prototypes: Sequence[FloatArray],
        occupancy: FloatArray,
        *,
        clip: float,
        noise: float,
        dimensions: int | None,
        seed_public: int,
    ) -> Released:
        """Clip, sum and noise one vector per patient.

        Args:
            prototypes: Level l at position l-1: [patient, class, channel], zero where the class is absent.
            occupancy: Voxels of each class [patient, class].
            clip: Largest L2 norm of a patient's vector.
            noise: Noise multiplier.
            dimensions: Values per class after a public random projection; None for none.
            seed_public: Seed of that projection.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyHooks:
    """What a member needs for the private parts of a plan; composition roots build it.

    Attributes:
        randomness: Unpredictable source for noise and Poisson sampling.
        anchor_release: The mechanism of private anchors; sites need none.
    """

    randomness: Randomness
    anchor_release: NoisyRelease | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateAnchorMaker:
    """Anchors with privacy noise; takes the place of `fedmepd.participants.AnchorMaker`.

    Attributes:
        learner: What the server computes with.
        plan: The run's plan, with `privacy.anchors`.
        release: The mechanism.
        permitted: Whether the budget allows a release now; without it anchors stay as they are.
        released: Told the digest of new anchors (`anchors_digest`) before they are returned.
    """

    learner: Learner
    plan: Plan
    release: NoisyRelease
    permitted: bool = True
    released: ReleasedHook | None = None

    def __call__(self, weights: Mapping[str, Tensor], previous: Anchors | None, round_number: int) -> Anchors:
        """Return the anchors of a round.

        Raises:
            ConfigError: If there are none yet and none may be made.
        """
        settings, rounds = self.plan.privacy.anchors, release_rounds(self.plan)
        if settings is None:
            raise ConfigError("privacy.anchors is not set", remedy="use anchors without noise")
        if previous is not None and not (self.permitted and round_number in rounds):
            return previous
        if not self.permitted:
            raise ConfigError(
                "the first anchors may not be released: the privacy budget does not cover them",
                remedy="raise the budget, or privacy.anchors.noise, or choose a method without anchors",
            )
        anchors = self._smoothed(previous, self._latest(weights, settings))
        if self.released is not None:
            self.released(anchors_digest(anchors))
        return anchors

    def _latest(self, weights: Mapping[str, Tensor], settings: AnchorPrivacy) -> Anchors:
        ids = [patient for source in self.learner.sources for patient in source.patient_ids]
        table = one_row_per_patient(self.learner.prototypes(weights, alone=True), ids)
        found = self.release(
            [level.numpy() for level in table.levels],
            table.occupancy.numpy(),
            clip=settings.clip,
            noise=settings.noise,
            dimensions=settings.dimensions,
            seed_public=seed_of("anchor projection", self.plan.run.seed),
        )
        return Anchors(levels=tuple(_single(level) for level in found.levels), weights=_single(found.weights))

    def _smoothed(self, previous: Anchors | None, latest: Anchors) -> Anchors:
        """Average over releases; the half-life is in rounds, and releases are spread evenly over them."""
        settings, spacing = self.plan.anchors, self.plan.run.rounds / len(release_rounds(self.plan))
        half_life = self.plan.rounds_of(settings.half_life) / spacing
        return smooth(previous, latest, weighting=settings.weighting, half_life=half_life)


def one_row_per_patient(table: PrototypeTable, ids: Sequence[str]) -> PrototypeTable:
    """Join the rows of each patient's cases: voxels add up, features are averaged over all of them.

    A patient's row is computed from its own cases alone, to the last bit: operations on single numbers in binary64,
    each rounded once, whoever else is there. A case with a value that is not finite shows nothing, so that it cannot
    stop a release that others are in.

    Args:
        table: One row per case.
        ids: The patient of each row.
    """
    table = _finite(table)
    cases: dict[str, list[int]] = {}
    for position, patient in enumerate(ids):
        cases.setdefault(patient, []).append(position)
    joined = [_row(table, own) for own in cases.values()]
    return PrototypeTable(
        levels=tuple(torch.stack(level) for level in zip(*(levels for levels, _ in joined), strict=True)),
        occupancy=torch.stack([occupancy for _, occupancy in joined]),
    )


def _row(table: PrototypeTable, own: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """Return the levels [class, channel] and the occupancy [class] of one patient.

    Args:
        table: One row per case.
        own: The patient's rows.
    """
    voxels = [table.occupancy[case].double() for case in own]
    total = _sum(voxels)
    shares = [torch.where(total > 0, one / total, 0.0).unsqueeze(1) for one in voxels]
    levels = [
        _sum([share * level[case].double() for share, case in zip(shares, own, strict=True)]) for level in table.levels
    ]
    return [level.float() for level in levels], total.float()


def _sum(terms: Sequence[Tensor]) -> Tensor:
    """Add one after the other: a reduction may choose its order by what else is in the tensor."""
    total = torch.zeros_like(terms[0])
    for term in terms:
        total = total + term
    return total


def _finite(table: PrototypeTable) -> PrototypeTable:
    fine = torch.stack([torch.isfinite(level).all(dim=2).all(dim=1) for level in table.levels]).all(dim=0)
    levels = tuple(torch.where(fine.view(-1, 1, 1), level, 0.0) for level in table.levels)
    return PrototypeTable(levels=levels, occupancy=torch.where(fine.unsqueeze(1), table.occupancy, 0.0))


def anchors_digest(anchors: Anchors) -> str:
    """Return the SHA-256 of anchors, in hex: levels 1 to 4, then weights, as little-endian float32."""
    digest = hashlib.sha256()
    for tensor in (*anchors.levels, anchors.weights):
        digest.update(tensor.contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def _single(array: npt.NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
