from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedmepd.cohorts import Case, Volume, institution_split_names, load_institution_split, load_layout, split_cases
from fedmepd.errors import CohortError, ConfigError
from fedmepd.task import load_task

F, C, T1, T2 = "flair", "t1ce", "t1", "t2"
MODALITIES = [(F, C, T1, T2), (F, C, T1, T2), (F, C, T1), (F, T1, T2), (F, C), (T1, T2), (C,), (T2,), (F, C, T1, T2)]


def case(case_id, patient_id=None):
    return Case(
        case_id=case_id,
        patient_id=patient_id or case_id,
        images={F: Volume(path=Path("f.nii"))},
        label=None,
        brain_mask=None,
        label_map={},
    )


@pytest.mark.parametrize(
    ("name", "sizes", "total"),
    [
        ("brats2018", [88, 21, 22, 20, 22, 21, 22, 34, 35], 285),
        ("brats2020", [129, 30, 26, 28, 22, 34, 31, 34, 35], 369),
    ],
)
def test_institutions_of_the_paper(name, sizes, total):
    split = load_institution_split(name)
    assert list(split.members) == ["server", *(f"site-{n}" for n in range(1, 9))]
    assert [len(member.case_ids) for member in split.members.values()] == sizes
    assert [member.modalities for member in split.members.values()] == MODALITIES
    assert len({case_id for member in split.members.values() for case_id in member.case_ids}) == total
    assert load_layout(split.layout).task == load_task("brats").name


def test_brats2020_institutions_cover_all_numbers():
    members = load_institution_split("brats2020").members.values()
    assert {int(c.removeprefix("BraTS20_Training_")) for m in members for c in m.case_ids} == set(range(1, 370))
    assert "BraTS20_Training_001" in load_institution_split("brats2020").members["server"].case_ids


def test_brats2018_ids_carry_the_prefix():
    assert load_institution_split("brats2018").members["site-1"].case_ids[0] == "Brats18_2013_0_1"


def test_member_takes_its_cases_and_misses_none(brats):
    from fedmepd.cohorts import open_cohort

    split = load_institution_split("brats2020")
    cohort = open_cohort(brats(split.members["site-4"].case_ids[:2]))
    with pytest.raises(CohortError, match=r"no case 'BraTS20_Training_240' \(and 19 more\)"):
        split.member_cohort(cohort, "site-4")
    with pytest.raises(CohortError, match="no member 'site-9'"):
        split.member_cohort(cohort, "site-9")


def test_unknown_split_names_the_known_ones():
    assert institution_split_names() == ("brats2018", "brats2020")
    with pytest.raises(CohortError, match="brats2018, brats2020"):
        load_institution_split("brats2019")


@given(
    patients=st.integers(3, 40),
    scans=st.integers(1, 3),
    seed=st.integers(0, 5),
    validate=st.sampled_from([0, 0.05, 0.2, 0.45]),
    test=st.sampled_from([0, 0.05, 0.2, 0.5]),
)
def test_parts_are_disjoint_by_patient_whole_and_never_empty(patients, scans, seed, validate, test):
    cases = [case(f"p{n}-{scan}", f"p{n}") for n in range(patients) for scan in range(scans)]
    split = split_cases(cases, seed=seed, validate=validate, test=test)
    parts = (split.train, split.validate, split.test)
    owners = [{c.patient_id for c in part} for part in parts]
    assert sorted(c.case_id for part in parts for c in part) == sorted(c.case_id for c in cases)
    assert sum(len(part) for part in owners) == patients
    assert split.train
    assert bool(split.validate) == (validate > 0)
    assert bool(split.test) == (test > 0)
    random.Random(1).shuffle(cases)
    assert split == split_cases(cases, seed=seed, validate=validate, test=test)


@given(
    patients=st.integers(4, 60),
    who=st.integers(0, 59),
    seed=st.integers(0, 5),
    validate=st.sampled_from([0, 0.05, 0.15, 0.45]),
    test=st.sampled_from([0, 0.05, 0.15, 0.5]),
)
@example(patients=30, who=0, seed=0, validate=0.05, test=0.05)  # both parts grow by the patient: three change
def test_one_patient_more_puts_at_most_three_in_or_out_of_training(patients, who, seed, validate, test):
    cases = [case(f"p{n}") for n in range(patients)]
    fewer = [one for one in cases if one.patient_id != f"p{who % patients}"]
    trained = [
        {one.patient_id for one in split_cases(some, seed=seed, validate=validate, test=test).train}
        for some in (cases, fewer)
    ]
    assert len(trained[0] ^ trained[1]) <= 3


def test_seed_changes_who_is_tested():
    cases = [case(f"p{n}") for n in range(30)]
    splits = [split_cases(cases, seed=seed, validate=0.2, test=0.2) for seed in range(4)]
    assert len({tuple(c.case_id for c in split.test) for split in splits}) == 4


def test_fractions_are_met():
    split = split_cases([case(f"p{n}") for n in range(50)], seed=0, validate=0.1, test=0.2)
    assert (len(split.train), len(split.validate), len(split.test)) == (35, 5, 10)


def test_too_few_patients_are_an_error_unless_all_train():
    cases = [case("a", "p"), case("b", "p"), case("c", "q")]
    assert len(split_cases(cases, seed=0, validate=0, test=0).train) == 3
    with pytest.raises(CohortError, match="2 patients cannot be divided into 3 parts"):
        split_cases(cases, seed=0, validate=0.2, test=0.2)


@pytest.mark.parametrize(("validate", "test"), [(-0.1, 0), (0.5, 0.5), (0, 1)])
def test_fractions_that_leave_nothing_to_train_are_errors(validate, test):
    with pytest.raises(ConfigError):
        split_cases([case("a")], seed=0, validate=validate, test=test)
