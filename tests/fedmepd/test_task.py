"""Task descriptions are data: what ships is sound, what a user writes is checked with one clear line."""

from __future__ import annotations

import copy

import pytest
import tomli_w

from fedmepd.errors import TaskError
from fedmepd.task import from_dict, load_task

SHIPPED = ("brats", "brats-post-treatment", "head-neck")


def description(**changes):
    return {**copy.deepcopy(load_task("head-neck").to_dict()), **changes}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_tasks_survive_the_way_to_plain_data_and_back(name):
    task = load_task(name)
    assert from_dict(task.to_dict(), source="copy") == task


def test_brats_is_the_published_task():
    task = load_task("brats")
    assert task.modalities == ("flair", "t1ce", "t1", "t2")
    assert task.output_labels == (0, 1, 2, 4)
    assert {region.name: region.classes for region in task.regions} == {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


def test_a_description_of_the_users_own_is_read_from_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(description(modalities=["ct", "mr", "pet-1_b"])))
    assert load_task(path).modalities == ("ct", "mr", "pet-1_b")
    assert load_task(str(path)) == load_task(path)


def test_subsets_come_in_canonical_order():
    assert load_task("brats").ordered(["t2", "flair", "t1"]) == ("flair", "t1", "t2")


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        (["t1", "t1gd"], "unknown modality 't1gd' for task 'brats'. use some of: flair, t1ce, t1, t2."),
        (["t1", "t1"], "each once"),
        ([], "at least one"),
    ],
)
def test_unknown_repeated_and_missing_modalities_are_refused(modalities, message):
    with pytest.raises(TaskError) as caught:
        load_task("brats").ordered(modalities)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "unknown key 'colour'. a task has: classes, modalities, name, output_labels, regions."),
        ({"classes": ["background"], "output_labels": [0], "regions": []}, "at least two distinct names"),
        ({"modalities": []}, "modalities must be distinct names"),
        ({"modalities": ["ct", "ct"]}, "modalities must be distinct names"),
        ({"modalities": ["ct", "m.r"]}, "modality 'm.r'"),
        ({"output_labels": [0, 1]}, "one distinct value per class"),
        ({"output_labels": [0, 1, 1, 2, 3]}, "one distinct value per class"),
        ({"output_labels": ["none"] * 5}, "not a task description"),
        ({"regions": []}, "every region needs classes other than background"),
        ({"regions": [{"name": "ALL", "classes": ["background", "eyes"]}]}, "other than background"),
        ({"regions": [{"name": "NONE", "classes": []}]}, "other than background"),
        ({"regions": [{"name": "LIVER", "classes": ["liver"]}]}, "not a task description"),
        ({"regions": [{"classes": ["eyes"]}]}, "not a task description"),
        ({"regions": ["eyes"]}, "not a task description"),
        ({"regions": 3}, "not a task description"),
    ],
)
def test_wrong_descriptions_are_refused_with_one_line_naming_the_file(changes, message):
    with pytest.raises(TaskError) as caught:
        from_dict(description(**changes), source="mine.toml")
    line = str(caught.value)
    assert line.startswith("mine.toml: ")
    assert message in line
    assert "\n" not in line


def test_a_missing_key_is_named():
    data = description()
    del data["regions"]
    with pytest.raises(TaskError, match="missing key 'regions'"):
        from_dict(data, source="mine.toml")


def test_a_region_without_a_title_is_called_by_its_name():
    task = from_dict(description(regions=[{"name": "EYES", "classes": ["eyes"]}]), source="mine.toml")
    assert task.regions[0].title == "EYES"


def test_an_unknown_task_lists_what_there_is():
    with pytest.raises(TaskError, match=r"no task 'liver'. use one of brats, brats-post-treatment, head-neck"):
        load_task("liver")


@pytest.mark.parametrize("content", [b"name = [", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_one_clear_line(tmp_path, content):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(TaskError, match=r"mine.toml: not TOML"):
        load_task(path)
