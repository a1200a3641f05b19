"""Brain phantoms: what each tissue looks like in each modality, and what patients have in common."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from fedmepd.errors import PhantomError
from fedmepd.phantom import BrainTissue, PhantomPatient, make_patient
from fedmepd.task import load_task

SHAPE = (40, 48, 40)
MODALITIES = ("flair", "t1ce", "t1", "t2")


@cache
def patient(seed: int, institution: int = 0) -> PhantomPatient:
    return make_patient("brain", shape=SHAPE, seed=seed, institution=institution)


@cache
def first_enhancing() -> int:
    return next(seed for seed in range(50) if np.count_nonzero(patient(seed).tissues == BrainTissue.ENHANCING) > 150)


def mean(of: PhantomPatient, modality: str, tissue: BrainTissue) -> float:
    mask = of.tissues == tissue
    inner = ndimage.binary_erosion(mask)
    return float(of.images[modality][inner if inner.sum() >= 10 else mask].mean())


def test_patient_carries_the_task_it_is_made_for() -> None:
    made = patient(0)
    assert tuple(made.images) == load_task("brats").modalities
    assert all(image.shape == SHAPE and image.dtype == np.float32 for image in made.images.values())
    assert made.label.shape == SHAPE
    assert made.label.dtype == np.uint8
    assert set(np.unique(made.label)) <= {0, 1, 2, 3}


def test_same_arguments_make_the_same_patient() -> None:
    again = make_patient("brain", shape=SHAPE, seed=0)
    assert all(np.array_equal(again.images[name], patient(0).images[name]) for name in MODALITIES)
    assert np.array_equal(again.label, patient(0).label)


def test_background_is_exactly_zero_and_brain_is_not() -> None:
    made = patient(1)
    inside = made.tissues > 0
    for image in made.images.values():
        assert not image[~inside].any()
        assert image[inside].min() >= 1
        assert np.array_equal(image, np.rint(image))
    assert not made.label[~inside].any()


def test_brain_has_natural_size_and_stays_off_the_border() -> None:
    made = patient(2)
    inside = made.tissues > 0
    litres = np.count_nonzero(inside) * np.prod(made.spacing) / 1e6
    assert 1.1 < litres < 1.9
    assert ndimage.label(inside)[1] == 1
    assert not any(face.any() for face in (inside[0], inside[-1], inside[:, 0], inside[:, -1], inside[..., -1]))


@pytest.mark.parametrize("institution", range(5))
def test_tissues_order_as_in_life_at_every_institution(institution: int) -> None:
    made = patient(first_enhancing(), institution)
    white, grey, csf = BrainTissue.WHITE, BrainTissue.GREY, BrainTissue.CSF
    edema, necrosis, rim = BrainTissue.EDEMA, BrainTissue.NECROSIS, BrainTissue.ENHANCING
    assert mean(made, "t1", white) > mean(made, "t1", grey) > mean(made, "t1", csf)
    assert mean(made, "t1", white) > mean(made, "t1", edema) > mean(made, "t1", necrosis)
    assert mean(made, "t1ce", rim) > mean(made, "t1ce", white) > mean(made, "t1ce", necrosis)
    assert mean(made, "t2", grey) > mean(made, "t2", white)
    assert mean(made, "t2", csf) > mean(made, "t2", white)
    assert mean(made, "t2", edema) > 1.2 * mean(made, "t2", white)
    assert mean(made, "flair", edema) > mean(made, "flair", rim) > mean(made, "flair", csf)
    assert mean(made, "flair", edema) > 1.2 * mean(made, "flair", grey)


def test_enhancement_shows_in_t1ce_and_hardly_elsewhere() -> None:
    made = patient(first_enhancing())

    def contrast(modality: str) -> float:
        rim = mean(made, modality, BrainTissue.ENHANCING)
        return abs(rim / mean(made, modality, BrainTissue.NECROSIS) - 1)

    assert contrast("t1ce") > 1.0
    assert max(contrast(name) for name in ("flair", "t1", "t2")) < 0.5 * contrast("t1ce")


def test_edema_is_faint_in_t1() -> None:
    made = patient(first_enhancing())
    ratio = {name: mean(made, name, BrainTissue.EDEMA) / mean(made, name, BrainTissue.WHITE) for name in MODALITIES}
    assert abs(ratio["t1"] - 1) < 0.35
    assert min(ratio["flair"], ratio["t2"]) > 1.4


def test_about_a_fifth_of_patients_has_no_enhancing_part() -> None:
    made = [make_patient("brain", shape=(24, 28, 24), seed=seed) for seed in range(40)]
    without = [one for one in made if not one.has_enhancement]
    assert 3 <= len(without) <= 16
    assert all(not (one.label == 3).any() and (one.label == 1).any() for one in without)
    assert all((one.label == 3).any() for one in made if one.has_enhancement)
    assert all((one.label == 2).any() for one in made)


def test_tumours_take_a_plausible_share_of_the_brain() -> None:
    shares = np.array([np.mean(patient(seed).label[patient(seed).tissues > 0] > 0) for seed in range(10)])
    assert 0.03 < np.median(shares) < 0.12
    assert shares.min() > 0.01
    assert shares.max() < 0.16


def test_seed_decides_anatomy_and_institution_decides_the_scanner_only() -> None:
    here, there, other = patient(3, 0), patient(3, 1), patient(4, 0)
    assert np.array_equal(here.tissues, there.tissues)
    assert not np.array_equal(here.tissues, other.tissues)
    inside = here.tissues > 0
    for name in MODALITIES:
        a, b = (one.images[name][inside] for one in (here, there))
        assert abs(np.log(a.mean() / b.mean())) > 0.02
        a, b = ((part - part.mean()) / part.std() for part in (a, b))
        # Normalising does not undo a scanner: contrast curve, bias field and noise remain.
        assert np.sqrt(np.mean((a - b) ** 2)) > 0.1


@pytest.mark.parametrize("shape", [(33, 37, 29), (64, 48, 17), (16, 16, 16), (48, 20, 60)])
def test_any_shape_works(shape: tuple[int, int, int]) -> None:
    made = make_patient("brain", shape=shape, seed=5)
    assert made.label.shape == shape
    assert made.label.any()
    assert {BrainTissue.CSF, BrainTissue.GREY, BrainTissue.WHITE} <= set(np.unique(made.tissues))
    centre = made.affine @ [*((count - 1) / 2 for count in shape), 1]
    assert np.allclose(centre, [0, 0, 0, 1])
    assert np.allclose(np.diag(made.affine)[:3], made.spacing)


def test_brats_shape_has_millimetre_voxels() -> None:
    from fedmepd.phantom.brain import FIELD_OF_VIEW
    from fedmepd.phantom.grid import fit_grid

    assert fit_grid((240, 240, 155), field_of_view=FIELD_OF_VIEW).spacing == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"shape": (8, 32, 32)}, "8x32x32"),
        ({"shape": (32, 32, 32), "seed": -1}, "seed"),
        ({"shape": (32, 32, 32), "institution": -1}, "institution"),
        ({"shape": (32, 32, 32), "kind": "knee"}, "knee"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, word: str) -> None:
    with pytest.raises(PhantomError, match=word):
        make_patient(**{"kind": "brain", "seed": 0, **arguments})
