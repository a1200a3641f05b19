"""Head-and-neck phantoms: all organs present, each with the signal of its sequence."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from fedmepd.phantom import NeckTissue, PhantomPatient, make_patient
from fedmepd.task import load_task


@cache
def patient(institution: int = 0) -> PhantomPatient:
    return make_patient("head-neck", shape=(64, 80, 64), seed=1, institution=institution)


def mean(of: PhantomPatient, modality: str, tissue: NeckTissue) -> float:
    mask = of.tissues == tissue
    inner = ndimage.binary_erosion(mask)
    return float(of.images[modality][inner if inner.sum() >= 10 else mask].mean())


@pytest.mark.parametrize("seed", range(6))
def test_every_organ_is_present_even_at_coarse_sampling(seed: int) -> None:
    made = make_patient("head-neck", shape=(32, 32, 32), seed=seed)
    assert tuple(made.images) == load_task("head-neck").modalities
    assert set(np.unique(made.label)) == set(range(len(load_task("head-neck").classes)))
    assert not made.has_enhancement


def test_paired_organs_are_two_and_single_organs_are_one() -> None:
    label = patient().label
    pieces = {organ: ndimage.label(label == organ, structure=np.ones((3, 3, 3)))[0] for organ in (1, 2, 3, 4)}
    large = {organ: int((np.bincount(part.ravel())[1:] > 20).sum()) for organ, part in pieces.items()}
    assert large == {1: 1, 2: 2, 3: 1, 4: 2}


@pytest.mark.parametrize("institution", range(4))
def test_ct_shows_bone_brightest_and_air_black(institution: int) -> None:
    made = patient(institution)
    order = [NeckTissue.AIR, NeckTissue.FAT, NeckTissue.GLAND, NeckTissue.MUSCLE, NeckTissue.MANDIBLE]
    levels = [mean(made, "ct", tissue) for tissue in order]
    assert levels == sorted(levels)
    air, fat, _, muscle, bone = levels
    assert air < 500
    assert 850 < fat < 1000
    assert 1040 < muscle < 1150
    assert bone > 1400


@pytest.mark.parametrize("institution", range(4))
def test_mr_is_t1_weighted(institution: int) -> None:
    made = patient(institution)

    def signal(tissue: NeckTissue) -> float:
        return mean(made, "mr", tissue)

    assert signal(NeckTissue.FAT) > signal(NeckTissue.GLAND) > signal(NeckTissue.MUSCLE) > signal(NeckTissue.AIR)
    assert signal(NeckTissue.MARROW) > signal(NeckTissue.CORTICAL_BONE)
    assert signal(NeckTissue.CORD) > 1.3 * signal(NeckTissue.CSF)
    assert signal(NeckTissue.FAT) > 2 * signal(NeckTissue.VITREOUS)


def test_outside_the_body_both_modalities_are_zero() -> None:
    made = patient()
    outside = made.tissues == NeckTissue.OUTSIDE
    assert outside.any()
    assert all(not image[outside].any() and image[~outside].min() >= 1 for image in made.images.values())
