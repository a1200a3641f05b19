"""Crops are the same whatever the number of workers, and differ where they should."""

from __future__ import annotations

import pytest
import torch

from fedmepd.cohorts import Settings, open_cohort, prepare_case
from fedmepd.phantom import CohortSpec, write_cohorts
from fedmepd.sampling import CropSettings, CropSource

MODALITIES = ("flair", "t1ce")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort") / "site"
    write_cohorts({folder: CohortSpec(kind="brain", cases=3, shape=(32, 32, 32), seed=3)}, workers=1)
    cohort = open_cohort(folder, modalities=MODALITIES)
    return [prepare_case(case, MODALITIES, Settings(min_size=24)) for case in cohort.cases]


def source(cases, *, workers=0, seed=1, member="site-1", foreground=0.5, augment=True):
    settings = CropSettings(edge=16, batch=2, foreground_share=foreground, augment=augment, workers=workers)
    return CropSource(cases, settings, seed=seed, member=member, given=MODALITIES)


def drawn(crops, round_number=1, steps=2):
    return [(batch.images, batch.label) for batch in crops.batches(round_number, steps)]


def same(one, other):
    return all(torch.equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True))


def test_the_same_crops_come_again_and_from_worker_processes(cases):
    first = drawn(source(cases))
    assert same(first, drawn(source(cases)))
    assert same(first, drawn(source(cases, workers=1)))


@pytest.mark.parametrize("other", [{"seed": 2}, {"member": "site-2"}])
def test_other_seeds_and_members_see_other_crops(cases, other):
    assert not same(drawn(source(cases)), drawn(source(cases, **other)))


def test_rounds_see_other_crops(cases):
    assert not same(drawn(source(cases), 1), drawn(source(cases), 2))


def test_batches_have_the_shapes_and_types_of_training(cases):
    images, label = drawn(source(cases))[0]
    assert images.shape == (2, 2, 16, 16, 16)
    assert images.dtype == torch.float32
    assert label.shape == (2, 16, 16, 16)
    assert label.dtype == torch.uint8
    assert int(label.max()) <= 3


def test_every_patient_is_seen_once_an_epoch(cases):
    crops = source(cases)
    assert crops.steps(1) == 2
    assert crops.steps(4) == 6


def test_foreground_crops_hold_more_tumour_than_uniform_ones(cases):
    share = lambda crops: sum(float((label > 0).float().mean()) for _, label in drawn(crops, steps=8))  # noqa: E731
    assert share(source(cases, foreground=1.0)) > 1.5 * share(source(cases, foreground=0.0))


def test_centred_crops_cover_every_patient_without_augmentation(cases):
    batches = list(source(cases).centred())
    assert sum(len(batch.label) for batch in batches) == len(cases)
    assert all(bool((label > 0).any()) for batch in batches for label in batch.label)
    assert torch.equal(batches[0].images, next(source(cases).centred()).images)
