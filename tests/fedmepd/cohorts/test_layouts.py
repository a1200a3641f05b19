from __future__ import annotations

import json

import numpy as np
import pytest

from fedmepd.cohorts import check_cohort, detect_layout, find_cohort, layout_names, load_layout, open_cohort
from fedmepd.errors import CohortError
from fedmepd.task import from_dict, load_task


@pytest.mark.parametrize("name", layout_names())
def test_every_shipped_layout_agrees_with_its_task(name):
    layout, task = load_layout(name), load_task(load_layout(name).task)
    assert layout.name == name
    assert set(layout.images) == set(task.modalities)
    assert set(layout.label_map.values()) == set(task.classes)


def test_unknown_layout_names_the_known_ones():
    with pytest.raises(CohortError, match=r"no layout 'brats'.*brats2020"):
        load_layout("brats")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_brats2018_cases_come_from_both_grades_with_patient_ids(tmp_path, write, image, label, suffix):
    for grade, case in (("HGG", "Brats18_TCIA01_131_1"), ("LGG", "Brats18_TCIA09_141_1")):
        for name in ("flair", "t1ce", "t1", "t2"):
            write(tmp_path / grade / case / f"{case}_{name}{suffix}", image(1))
        write(tmp_path / grade / case / f"{case}_seg{suffix}", label())
    cohort = open_cohort(tmp_path)
    assert detect_layout(tmp_path).name == "brats2018"
    assert [case.case_id for case in cohort.cases] == ["Brats18_TCIA01_131_1", "Brats18_TCIA09_141_1"]
    assert cohort.cases[0].patient_id == "Brats18_TCIA01_131"
    assert cohort.cases[0].label_map == {0: 0, 1: 1, 2: 2, 4: 3}
    assert cohort.modalities == ("flair", "t1ce", "t1", "t2")


def test_brats2020_reads_the_label_that_was_released_under_another_name(brats):
    root = brats(("BraTS20_Training_355", "BraTS20_Training_356"))
    folder = root / "BraTS20_Training_355"
    (folder / "BraTS20_Training_355_seg.nii.gz").rename(folder / "W39_1998.09.19_Segm.nii.gz")
    cohort = open_cohort(root)
    assert cohort.cases[0].label.path.name == "W39_1998.09.19_Segm.nii.gz"


@pytest.mark.parametrize(
    ("cases", "layout", "label_map"),
    [
        (("BraTS-GLI-00000-000", "BraTS-GLI-00000-001"), "brats2023", {0: 0, 1: 1, 2: 2, 3: 3}),
        (("BraTS-GLI-02062-100", "BraTS-GLI-02062-101"), "brats2024", {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}),
    ],
)
def test_dashed_names_are_told_apart_by_time_point(tmp_path, write, image, label, cases, layout, label_map):
    for case in cases:
        for suffix in ("t2f", "t1c", "t1n", "t2w"):
            write(tmp_path / case / f"{case}-{suffix}.nii.gz", image(1))
        write(tmp_path / case / f"{case}-seg.nii.gz", label())
    cohort = open_cohort(tmp_path)
    assert detect_layout(tmp_path).name == layout
    assert cohort.cases[0].label_map == label_map
    assert len({case.patient_id for case in cohort.cases}) == 1
    assert cohort.cases[0].images["t1ce"].path.name.endswith("-t1c.nii.gz")


def test_decathlon_channels_follow_dataset_json_and_hidden_files_are_ignored(tmp_path, write, image, label):
    for first, name in ((0, "imagesTr/BRATS_001"), (4, "imagesTs/BRATS_485")):
        write(tmp_path / f"{name}.nii.gz", np.stack([image(first + n) for n in range(4)], axis=-1))
    (tmp_path / "imagesTr" / "._BRATS_001.nii.gz").write_bytes(b"junk")
    write(tmp_path / "labelsTr" / "BRATS_001.nii.gz", np.minimum(label(), 3))
    by_default = open_cohort(tmp_path)
    assert [case.case_id for case in by_default.cases] == ["BRATS_001"]
    assert {name: volume.channel for name, volume in by_default.cases[0].images.items()} == {
        "flair": 0,
        "t1ce": 2,
        "t1": 1,
        "t2": 3,
    }
    assert by_default.cases[0].label_map == {0: 0, 1: 2, 2: 1, 3: 3}
    assert len(open_cohort(tmp_path, require_label=False).cases) == 2
    assert check_cohort(tmp_path).unusable == ()
    names = {"0": "T2w", "1": "FLAIR", "2": "T1w", "3": "t1gd"}
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": names}))
    assert open_cohort(tmp_path).cases[0].images["t2"].channel == 0
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "ADC"}}))
    with pytest.raises(CohortError, match=r"channel 'ADC'.*manifest"):
        open_cohort(tmp_path)


def test_folder_of_unlabelled_cases_says_so(tmp_path, write, image):
    write(tmp_path / "imagesTs" / "BRATS_485.nii.gz", np.stack([image(n) for n in range(4)], axis=-1))
    with pytest.raises(CohortError, match="no labelled case"):
        open_cohort(tmp_path)


def test_head_neck_cases_may_share_one_folder(tmp_path, write, image, label):
    for case in ("p1", "p2"):
        write(tmp_path / f"{case}_ct.nii.gz", image(1))
        write(tmp_path / f"{case}_mr.nii.gz", image(2))
        write(tmp_path / f"{case}_seg.nii.gz", label())
    cohort = open_cohort(tmp_path)
    assert cohort.task.name == "head-neck"
    assert cohort.modalities == ("ct", "mr")


def test_folder_of_no_layout_is_an_error_that_offers_a_manifest(tmp_path):
    with pytest.raises(CohortError, match=r"follows no known layout.*manifest"):
        open_cohort(tmp_path)


def test_case_in_two_places_is_an_error(tmp_path, write, image):
    for grade in ("HGG", "LGG"):
        write(tmp_path / grade / "x_1" / "x_1_flair.nii.gz", image(1))
    with pytest.raises(CohortError, match="'x_1' occurs in"):
        find_cohort(tmp_path)


def test_task_without_a_class_of_the_layout_is_an_error(brats):
    task = load_task("brats").to_dict()
    task["classes"], task["output_labels"] = ["background", "tumour"], [0, 1]
    task["regions"] = [{"name": "WT", "classes": ["tumour"]}]
    with pytest.raises(CohortError, match="has class 'necrosis', which task 'brats' lacks"):
        open_cohort(brats(), task=from_dict(task, source="test"))
