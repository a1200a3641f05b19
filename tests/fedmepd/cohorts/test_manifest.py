from __future__ import annotations

import pytest

from fedmepd.cohorts import open_cohort, read_manifest
from fedmepd.errors import CohortError, TaskError

TOML = """
name = "north"
task = "brats"
[label_map]
0 = "background"
1 = "necrosis"
3 = "necrosis"
[[cases]]
id = "b"
images.flair = "b/FLAIR.nii.gz"
[[cases]]
id = "a"
patient = "p"
label = "a/seg.nii.gz"
brain_mask = "a/mask.nii.gz"
[cases.images]
t1 = { file = "a/4d.nii.gz", channel = 2 }
flair = "a/FLAIR.nii.gz"
"""
CSV = """\ufeff# name: north
# a remark
# label_map: 0=background, 1=necrosis, 3=necrosis
case,patient,flair,t1,label,brain_mask
b,,b/FLAIR.nii.gz,,,
a,p,a/FLAIR.nii.gz,a/T1.nii.gz,a/seg.nii.gz,a/mask.nii.gz
"""


def save(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_toml_says_what_each_case_has(tmp_path):
    cohort = read_manifest(save(tmp_path, "m.toml", TOML))
    first, second = cohort.cases
    assert (cohort.name, cohort.task.name) == ("north", "brats")
    assert (first.case_id, first.patient_id, second.patient_id) == ("a", "p", "b")
    assert list(first.images) == ["flair", "t1"]
    assert first.images["t1"].channel == 2
    assert first.images["flair"].path == tmp_path / "a/FLAIR.nii.gz"
    assert first.brain_mask == tmp_path / "a/mask.nii.gz"
    assert first.label_map == {0: 0, 1: 1, 3: 1}
    assert second.label is None


SEMICOLONS = CSV.replace(",", ";")
FROM_A_SPREADSHEET = CSV.replace(
    "# label_map: 0=background, 1=necrosis, 3=necrosis", '"# label_map: 0=background, 1=necrosis, 3=necrosis",,,'
)


@pytest.mark.parametrize("text", [CSV, SEMICOLONS, FROM_A_SPREADSHEET])
def test_csv_means_the_same_as_toml(tmp_path, text):
    first, second = read_manifest(save(tmp_path, "m.csv", text)).cases
    assert (first.case_id, first.patient_id, list(first.images)) == ("a", "p", ["flair", "t1"])
    assert first.label_map == {0: 0, 1: 1, 3: 1}
    assert first.brain_mask == tmp_path / "a/mask.nii.gz"
    assert (second.case_id, list(second.images), second.label) == ("b", ["flair"], None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "north"', 'title = "north"', "unknown key 'title'.*name, task, label_map, cases"),
        ("patient =", "pacient =", r"unknown key 'cases.1.pacient'.*patient"),
        ('flair = "a', 'dwi = "a', r"case 'a' has unknown modality 'dwi'.*flair, t1ce, t1, t2"),
        ('1 = "necrosis"', '1 = "nekrosis"', r"value 1 the unknown class 'nekrosis'.*necrosis"),
        ('1 = "necrosis"', 'one = "necrosis"', "label_map.one"),
        ('id = "a"', 'id = "b"', "case id 'b' occurs twice"),
        ('id = "a"', 'id = "../a"', r"cases.1.id"),
        ('id = "a"', 'id = "a', "cannot be read"),
        ("channel =", "kanal =", "unknown key 'cases.1.images.t1.kanal'.*file, channel"),
        ("channel = 2", "channel = -2", r"cases\.1\.images\.t1\.channel': Input should be greater"),
    ],
)
def test_wrong_toml_is_an_error_naming_the_key(tmp_path, old, new, message):
    assert old in TOML
    with pytest.raises(CohortError, match=message):
        read_manifest(save(tmp_path, "m.toml", TOML.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("case,patient", "kase,patient", "one of them 'case'"),
        ("flair,t1,", "flair,dwi,", "unknown modality 'dwi'"),
        ("# name", "# title", "unknown header line '# title:'"),
        ("b,,b/FLAIR.nii.gz,,,", "b,,b/FLAIR.nii.gz", "row 'b' has 3 cells for 6 columns"),
        ("b,,b/FLAIR.nii.gz,,,", "b,,,,,", r"cases.0.images"),
        ("1=necrosis", "1", "unknown class ''"),
    ],
)
def test_wrong_csv_is_an_error_naming_the_place(tmp_path, old, new, message):
    assert old in CSV
    with pytest.raises(CohortError, match=message):
        read_manifest(save(tmp_path, "m.csv", CSV.replace(old, new, 1)))


def test_label_without_a_label_map_is_an_error(tmp_path):
    text = "\n".join(line for line in CSV.splitlines() if "label_map" not in line)
    with pytest.raises(CohortError, match="no label_map"):
        read_manifest(save(tmp_path, "m.csv", text))


def test_unknown_task_is_an_error_naming_the_key(tmp_path):
    with pytest.raises(TaskError, match="key 'task'"):
        read_manifest(save(tmp_path, "m.toml", TOML.replace('"brats"', '"brain"')))


def test_manifest_case_without_label_is_refused_for_training(tmp_path, write, image):
    path = save(tmp_path, "m.csv", "case,flair\nb,b/FLAIR.nii.gz\n")
    write(tmp_path / "b" / "FLAIR.nii.gz", image(1))
    with pytest.raises(CohortError, match="case b has no label"):
        open_cohort(path)
    assert len(open_cohort(path, require_label=False).cases) == 1
