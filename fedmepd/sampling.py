"""Crops: seeded, augmented batches from a member's prepared patients.

Each crop is seeded by (run seed, member, round, position), so the sequence does not depend on the number of loader
workers, on earlier rounds or on other members. Augmentation as published: flips, rotation by up to 10 degrees,
intensity scale and shift by up to 0.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, radians
from typing import Any

import torch
from jaxtyping import Float, UInt8
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld, RandSpatialCropSamplesd
from monai.transforms.intensity.dictionary import RandScaleIntensityd, RandShiftIntensityd
from monai.transforms.spatial.dictionary import RandFlipd, RandRotated
from monai.utils.type_conversion import convert_to_tensor
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fedmepd.cohorts import PreparedCase
from fedmepd.errors import CohortError
from fedmepd.patients import Patients
from fedmepd.seeds import seed_of

_ROTATION = radians(10.0)
_INTENSITY = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A training batch.

    Attributes:
        images: [batch, modality, d, h, w].
        label: Class indices [batch, d, h, w].
        given: Which modalities the channels are.
    """

    images: Float[Tensor, "batch modality d h w"]
    label: UInt8[Tensor, "batch d h w"]
    given: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CropSettings:
    """How crops are drawn.

    Attributes:
        edge: Edge of the cubic crop in voxels.
        batch: Crops per batch.
        foreground_share: Share of crops that are centred on a voxel of a class other than background.
        augment: Whether to augment.
        workers: Loader processes; 0 loads in this one.
    """

    edge: int
    batch: int
    foreground_share: float
    augment: bool
    workers: int = 0


class CropSource:
    """Batches of one member's training patients.

    Args:
        cases: Prepared, labelled patients of the same modalities.
        settings: How crops are drawn.
        seed: The run's seed.
        member: Whose patients they are.
        given: Their modalities.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        settings: CropSettings,
        *,
        seed: int,
        member: str,
        given: tuple[str, ...],
    ) -> None:
        self.cases, self.settings, self.seed, self.member, self.given = cases, settings, seed, member, given

    @property
    def patient_ids(self) -> tuple[str, ...]:
        """The patient of each case."""
        if isinstance(self.cases, Patients):
            return self.cases.patient_ids  # without preparing them
        return tuple(case.patient_id for case in self.cases)

    def steps(self, epochs: int) -> int:
        """Return how many batches show every patient `epochs` times."""
        return max(1, ceil(len(self.cases) * epochs / self.settings.batch)) if self.cases else 0

    def batches(self, round_number: int, steps: int) -> Iterator[Batch]:
        """Draw the batches of a round."""
        crops = _RoundCrops(self, round_number, steps)
        loader: DataLoader[dict[str, Tensor]] = DataLoader(
            crops, batch_size=self.settings.batch, num_workers=self.settings.workers, shuffle=False
        )
        for item in loader:
            label = item["label"][:, 0].to(torch.uint8)
            yield Batch(images=item["image"], label=label, given=self.given)

    def patient_crops(self, patient: str, round_number: int, step: int, count: int) -> Batch:
        """Draw crops of one patient; they depend on nothing but the run's seed, patient, round and step.

        Args:
            patient: Whose; each crop is of one of the patient's cases.
            round_number: The round.
            step: The step in the round.
            count: How many crops.
        """
        own = [index for index, owner in enumerate(self.patient_ids) if owner == patient]
        items = []
        for position in range(count):
            seed = seed_of("patient", self.seed, self.member, round_number, step, patient, position)
            items.append(_draw(self.cases[own[seed % len(own)]], self._own_transform, seed))
        images, labels = (torch.stack([item[key] for item in items]) for key in ("image", "label"))
        return Batch(images=images, label=labels[:, 0].to(torch.uint8), given=self.given)

    @cached_property
    def _own_transform(self) -> Compose:
        return _transform(self.settings)

    def centred(self, batch: int | None = None) -> Iterator[Batch]:
        """Yield every patient once, unaugmented: the crop around the centre of its labelled classes.

        Args:
            batch: Cases at once; as many as in training by default.
        """
        batch = batch or self.settings.batch
        for start in range(0, len(self.cases), batch):
            cases = self.cases[start : start + batch]
            items = [_centred_crop(case, self.settings.edge) for case in cases]
            images, labels = (torch.stack(parts) for parts in zip(*items, strict=True))
            yield Batch(images=images, label=labels, given=self.given)


class _RoundCrops(Dataset[dict[str, Tensor]]):
    """The crops of one round, each reproducible from its position."""

    def __init__(self, source: CropSource, round_number: int, steps: int) -> None:
        self.source, self.round_number = source, round_number
        self.count = steps * source.settings.batch
        self.transform = _transform(source.settings)
        self.order: list[int] = []
        while len(self.order) < self.count and source.cases:
            generator = torch.Generator().manual_seed(self._seed("order", len(self.order)))
            self.order += torch.randperm(len(source.cases), generator=generator).tolist()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return _draw(self.source.cases[self.order[position]], self.transform, self._seed("crop", position))

    def _seed(self, purpose: str, position: int) -> int:
        return seed_of(purpose, self.source.seed, self.source.member, self.round_number, position)


def _draw(case: PreparedCase, transform: Compose, seed: int) -> dict[str, Tensor]:
    """Draw one crop."""
    transform.set_random_state(seed=seed % (1 << 32))
    if case.label is None:
        raise CohortError(f"case {case.case_id!r} has no label")
    crops: Any = transform({"image": case.image, "label": case.label.unsqueeze(0)})
    return {key: convert_to_tensor(crops[0][key], track_meta=False) for key in ("image", "label")}


def _transform(settings: CropSettings) -> Compose:
    both = ("image", "label")
    steps: list[Any] = [
        RandCropByPosNegLabeld(
            both,
            label_key="label",
            spatial_size=(settings.edge,) * 3,
            pos=settings.foreground_share,
            neg=1.0 - settings.foreground_share,
            num_samples=1,
        )
        if settings.foreground_share
        else RandSpatialCropSamplesd(both, roi_size=(settings.edge,) * 3, num_samples=1, random_size=False)
    ]
    if settings.augment:
        steps += [RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)]
        steps += [
            RandRotated(
                both,
                range_x=_ROTATION,
                range_y=_ROTATION,
                range_z=_ROTATION,
                prob=0.5,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandScaleIntensityd("image", factors=_INTENSITY, prob=1.0, channel_wise=True),
            RandShiftIntensityd("image", offsets=_INTENSITY, prob=1.0, channel_wise=True),
        ]
    return Compose(steps)


def _centred_crop(case: PreparedCase, edge: int) -> tuple[Tensor, Tensor]:
    label = case.label if case.label is not None else torch.zeros_like(case.brain, dtype=torch.uint8)
    inside = label > 0 if bool((label > 0).any()) else case.brain
    centre = inside.nonzero().double().mean(dim=0).round().long().tolist()
    starts = [min(max(c - edge // 2, 0), n - edge) for c, n in zip(centre, label.shape, strict=True)]
    box = tuple(slice(start, start + edge) for start in starts)
    return case.image[(slice(None), *box)], label[box]
