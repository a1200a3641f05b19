"""`fedmepd predict`: from image files to segmentations that lie on them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from fedmepd.cli.predict import register
from fedmepd.cohorts import Settings, find_cohort, prepare_case
from fedmepd.compute import Backend
from fedmepd.errors import CohortError, ConfigError, RunError
from fedmepd.inference import predict_labels
from fedmepd.model import Architecture, build
from fedmepd.models import Provenance, SiteModel, load_model, network_of, save_model
from fedmepd.prediction import Predictor
from fedmepd.task import load_task

TASK = load_task("brats")
CPU = Backend(device=torch.device("cpu"), bfloat16=False, compile=False)
SHAPE = (18, 20, 14)
LPS = np.array([[-1.2, 0, 0, 90], [0, -1.0, 0, 120], [0, 0, 2.0, -70], [0, 0, 0, 1.0]])

app = typer.Typer()
app.callback()(lambda: None)
register(app)


@pytest.fixture(autouse=True)
def _plain_backend(monkeypatch):
    monkeypatch.setattr("fedmepd.compute.resolve_backend", lambda _device: CPU)


def write_image(path, seed, *, affine=LPS, shape=SHAPE):
    rng = np.random.default_rng(seed)
    array = np.zeros(shape, dtype=np.float32)
    array[3:-3, 2:-2, 2:-2] = rng.normal(100, 20, array[3:-3, 2:-2, 2:-2].shape)
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=4)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"Jane Doe 1960"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_case(root, case, *, modalities=("flair", "t2"), template="{case}_{modality}.nii.gz", seed=0, **options):
    for index, modality in enumerate(modalities):
        write_image(root / template.format(case=case, modality=modality), 10 * seed + index, **options)


@pytest.fixture
def cohort(tmp_path):
    for seed, case in enumerate(("a", "b")):
        write_case(tmp_path / "cohort" / case, case, seed=seed)
    return tmp_path / "cohort"


def write_model(path, *, own=("flair", "t2"), seed=0):
    architecture = Architecture(modalities=TASK.modalities, own=own, classes=4, width=4)
    network = build(architecture, seed)
    with torch.no_grad():  # without it, an untrained network may say background everywhere
        network.decoder.classify.weight.mul_(50)
    model = SiteModel(
        architecture=architecture,
        task=TASK,
        settings=Settings(min_size=16),
        window=16,
        provenance=Provenance(run="run", method="local", member="site-1", round_number=3),
        weights=network.state_dict(),
        anchors=None,
    )
    save_model(path, model)
    return path


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "site-1.safetensors")


def run(*words):
    return CliRunner().invoke(app, ["predict", *map(str, words)], env={"COLUMNS": "200"}, catch_exceptions=False)


def refused(*words, kind=CohortError):
    with pytest.raises(kind) as caught:
        run(*words)
    return str(caught.value)


def test_segmentations_lie_exactly_on_the_image_and_tell_nothing_of_the_patient(model, cohort, tmp_path):
    assert run(model, cohort, "--out", tmp_path / "out").exit_code == 0
    image, made = nib.load(cohort / "a" / "a_flair.nii.gz"), nib.load(tmp_path / "out" / "a.nii.gz")
    assert made.shape == image.shape
    assert made.get_data_dtype() == np.uint8
    assert np.array_equal(made.affine, image.affine)
    assert nib.aff2axcodes(made.affine) == ("L", "P", "S")
    for key in ("qform_code", "sform_code", "xyzt_units", "pixdim"):
        assert np.array_equal(made.header[key], image.header[key]), key
    assert np.array_equal(made.get_qform(), image.get_qform())
    assert not made.header.extensions
    assert b"Jane" not in made.to_bytes()


def test_label_values_are_the_tasks_and_the_classes_those_of_the_library(model, cohort, tmp_path):
    run(model, cohort, "--out", tmp_path / "out")
    made = np.asarray(nib.load(tmp_path / "out" / "b.nii.gz").dataobj)
    loaded = load_model(model)
    case = next(c for c in find_cohort(cohort).cases if c.case_id == "b")
    prepared = prepare_case(replace(case, label=None), ("flair", "t2"), loaded.settings)
    wanted = predict_labels(
        network_of(loaded, CPU), None, prepared.image, prepared.brain, given=("flair", "t2"), window=16, backend=CPU
    )
    classes, counts = np.unique(wanted, return_counts=True)
    found = {value: int((made == value).sum()) for value in TASK.output_labels}
    assert len(classes) > 1
    assert sum(found.values()) == made.size
    for index in (1, 2, 3):
        assert found[TASK.output_labels[index]] == dict(zip(classes, counts, strict=True)).get(index, 0)
    outside = np.asarray(nib.load(cohort / "b" / "b_flair.nii.gz").dataobj) == 0
    assert not made[outside].any()


def test_a_turned_file_gives_the_same_segmentation_turned(model, tmp_path):
    write_case(tmp_path / "turned" / "a", "a")
    for path in sorted((tmp_path / "turned" / "a").iterdir()):
        straight = tmp_path / "straight" / "a" / path.name
        straight.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.as_closest_canonical(nib.load(path)), straight)
    run(model, tmp_path / "turned", "--out", tmp_path / "out1")
    run(model, tmp_path / "straight", "--out", tmp_path / "out2")
    turned, straight = (nib.load(tmp_path / out / "a.nii.gz") for out in ("out1", "out2"))
    assert np.array_equal(nib.as_closest_canonical(turned).dataobj, straight.dataobj)
    assert not np.array_equal(turned.dataobj, straight.dataobj)


@pytest.mark.parametrize(
    ("folder", "template", "options"),
    [
        ("BraTS20_Training_001", "{case}_{modality}.nii.gz", ()),
        ("HGG/Brats18_A_1_1", "{case}_{modality}.nii", ()),
        ("BraTS-GLI-00001-000", "{case}-{modality}.nii.gz", ()),
        ("BraTS-GLI-00001-100", "{case}-{modality}.nii.gz", ()),
        ("BraTS-GLI-00001-100", "{case}-{modality}.nii.gz", ("--layout", "brats2024")),
    ],
)
def test_the_folder_of_one_case_is_enough(model, tmp_path, folder, template, options):
    case = folder.rpartition("/")[2]
    names = ("t2f", "t2w") if "GLI" in case else ("flair", "t2")
    write_case(tmp_path / folder, case, modalities=names, template=template)
    result = run(model, tmp_path / folder, "--out", tmp_path / "out", "--json", *options)
    assert [item["case"] for item in json.loads(result.stdout)["cases"]] == [case]
    assert (tmp_path / "out" / f"{case}.nii.gz").is_file()


def test_several_inputs_manifests_and_4d_files(model, cohort, tmp_path):
    volumes = np.random.default_rng(0).normal(100, 20, (*SHAPE, 4)).astype(np.float32)
    volumes[:3] = 0
    decathlon = tmp_path / "task01" / "imagesTs"
    decathlon.mkdir(parents=True)
    nib.save(nib.Nifti1Image(volumes, LPS), decathlon / "BRATS_485.nii.gz")
    manifest = tmp_path / "own.toml"
    images = 'flair = "cohort/a/a_flair.nii.gz"\nt2 = "cohort/a/a_t2.nii.gz"\nt1 = "lost.nii.gz"\n'
    manifest.write_text(f'[[cases]]\nid = "patient-1"\n[cases.images]\n{images}')
    run(model, cohort / "b", manifest, decathlon.parent, "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "BRATS_485.nii.gz", "b.nii.gz", "patient-1.nii.gz",
    ]  # fmt: skip
    made = nib.load(tmp_path / "out" / "BRATS_485.nii.gz")
    assert made.shape == SHAPE
    assert made.header["dim"].tolist() == [3, *SHAPE, 1, 1, 1, 1]


def test_labels_and_other_modalities_of_a_case_are_not_read(model, cohort, tmp_path):
    (cohort / "a" / "a_seg.nii.gz").write_bytes(b"broken")
    (cohort / "a" / "a_t1.nii.gz").write_bytes(b"broken")
    assert run(model, cohort, "--out", tmp_path / "out").exit_code == 0


def test_the_summary_counts_voxels_per_class(model, cohort, tmp_path):
    result = run(model, cohort, "--out", tmp_path / "out", "--json")
    data = json.loads(result.stdout)
    assert (data["model"]["member"], data["model"]["modalities"]) == ("site-1", ["flair", "t2"])
    first = data["cases"][0]
    assert (first["case"], first["status"], first["seconds"] > 0) == ("a", "predicted", True)
    made = np.asarray(nib.load(first["file"]).dataobj)
    counts = {name: int((made == value).sum()) for name, value in zip(TASK.classes, TASK.output_labels, strict=True)}
    assert first["voxels"] == counts
    assert "2 segmentations" in run(model, cohort, "--out", tmp_path / "out").stdout


def test_finished_cases_are_kept_unless_told_otherwise(model, cohort, tmp_path):
    out = tmp_path / "out"
    run(model, cohort / "a", "--out", out)
    (out / ".b.nii.gz.1234").write_bytes(b"left by a crash")
    written = (out / "a.nii.gz").stat().st_mtime_ns
    data = json.loads(run(model, cohort, "--out", out, "--json").stdout)
    assert [(item["case"], item["status"]) for item in data["cases"]] == [("a", "kept"), ("b", "predicted")]
    assert data["cases"][0]["voxels"]["background"] > 0
    assert (out / "a.nii.gz").stat().st_mtime_ns == written
    content = (out / "a.nii.gz").read_bytes()
    data = json.loads(run(model, cohort, "--out", out, "--json", "--overwrite").stdout)
    assert [item["status"] for item in data["cases"]] == ["predicted", "predicted"]
    assert (out / "a.nii.gz").read_bytes() == content


def test_predictions_of_another_model_or_setting_are_not_taken_for_finished(model, cohort, tmp_path):
    out = tmp_path / "out"
    run(model, cohort / "a", "--out", out)
    other = write_model(tmp_path / "other.safetensors", seed=1)
    assert "a.nii.gz was not made by this model with this window and overlap" in refused(other, cohort, "--out", out)
    assert "was not made by this model" in refused(model, cohort, "--out", out, "--overlap", "0.25")
    assert run(other, cohort, "--out", out, "--overwrite").exit_code == 0
    (out / "b.nii.gz").write_bytes(b"something else")
    assert "replace it with --overwrite" in refused(other, cohort, "--out", out)


def test_an_interrupt_keeps_what_is_done(model, cohort, tmp_path, monkeypatch):
    whole = Predictor.predict

    def until_b(self, case, **options):
        if case.case_id == "b":
            raise KeyboardInterrupt
        return whole(self, case, **options)

    monkeypatch.setattr(Predictor, "predict", until_b)
    result = run(model, cohort, "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert "the same command continues" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nii.gz"]


def test_probabilities_sum_to_one_and_agree_with_the_labels(model, cohort, tmp_path):
    run(model, cohort / "a", "--out", tmp_path / "out")
    run(model, cohort / "a", "--out", tmp_path / "out", "--probabilities")
    maps = nib.load(tmp_path / "out" / "probabilities" / "a.nii.gz")
    labels = np.asarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj)
    values = np.asarray(maps.dataobj)
    assert maps.shape == (*SHAPE, 4)
    assert np.allclose(maps.affine, LPS)
    np.testing.assert_allclose(values.sum(axis=-1), 1, atol=1e-5)
    assert np.array_equal(np.array(TASK.output_labels)[values.argmax(axis=-1)], labels)
    again = run(model, cohort / "a", "--out", tmp_path / "out", "--probabilities", "--json")
    assert json.loads(again.stdout)["cases"][0]["status"] == "kept"


def test_a_bad_case_is_an_error_or_is_named_and_left_out(model, cohort, tmp_path):
    (cohort / "b" / "b_t2.nii.gz").unlink()
    assert "case b: t2 file" in refused(model, cohort, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = run(model, cohort, "--out", tmp_path / "out", "--skip-invalid", "--json")
    assert result.exit_code == 0
    assert "skipped case b: t2 file" in result.stderr
    assert [item["case"] for item in json.loads(result.stdout)["skipped"]] == ["b"]


def test_bad_voxels_are_found_too(model, cohort, tmp_path):
    path = cohort / "a" / "a_flair.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    assert "cannot be read" in refused(model, cohort / "a", "--out", tmp_path / "out")
    result = run(model, cohort, "--out", tmp_path / "out", "--skip-invalid")
    assert (result.exit_code, "skipped case a:" in result.stderr) == (0, True)
    assert run(model, cohort / "a", "--out", tmp_path / "out", "--skip-invalid").exit_code == 1


def test_inputs_that_are_no_cases(model, cohort, tmp_path):
    out = ("--out", tmp_path / "out")
    assert "is a single image" in refused(model, cohort / "a" / "a_flair.nii.gz", *out)
    assert "does not exist" in refused(model, tmp_path / "absent", *out)
    assert "case 'a' occurs in" in refused(model, cohort, cohort / "a", *out)
    assert "leave --layout out" in refused(model, cohort, *out, "--layout", "decathlon")
    manifest = tmp_path / "m.csv"
    manifest.write_text("case,flair\nx,cohort/a/a_flair.nii.gz\n")
    assert "case x has no t2 image. this model needs flair, t2" in refused(model, manifest, *out)


@pytest.mark.parametrize("options", [("--window", "20"), ("--overlap", "1")])
def test_windows_that_cannot_be_used(model, cohort, tmp_path, options):
    assert refused(model, cohort, "--out", tmp_path / "out", *options, kind=ConfigError)


def test_a_device_with_too_little_memory_is_one_clear_line(model, cohort, tmp_path, monkeypatch):
    def full(*_arguments, **_options):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("fedmepd.prediction.segment", full)
    message = refused(model, cohort, "--out", tmp_path / "out", kind=ConfigError)
    assert "too little memory for windows of 16. use a smaller --window" in message


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_case(model, cohort, tmp_path):
    (tmp_path / "out").write_text("a file")
    message = refused(model, cohort, "--out", tmp_path / "out", "--skip-invalid", kind=RunError)
    assert "cannot be written" in message


def test_a_broken_model_file_leaves_with_2_and_one_line(cohort, tmp_path, capsys):
    from fedmepd.cli.main import main

    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    with pytest.raises(SystemExit) as caught:
        main(["predict", str(broken), str(cohort), "--out", str(tmp_path / "out")])
    output = capsys.readouterr().err
    assert caught.value.code == 2
    assert output.count("\n") == 1
    assert "is no model file" in output


def test_help_needs_no_torch():
    import subprocess

    code = (
        "import sys, typer; from fedmepd.cli.predict import register; register(typer.Typer());"
        "sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
