"""A model file holds all that prediction needs, and nothing that is broken passes for one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from fedmepd.anchors import Anchors
from fedmepd.cohorts import Settings
from fedmepd.compute import Backend
from fedmepd.errors import ModelFileError
from fedmepd.model import Architecture, build
from fedmepd.models import Provenance, SiteModel, fingerprint, load_model, network_of, save_model
from fedmepd.task import load_task

TASK = load_task("brats")
CPU = Backend(device=torch.device("cpu"), bfloat16=False, compile=False)


def anchors_of(width=4, clusters=2):
    generator = torch.Generator().manual_seed(3)
    levels = tuple(torch.randn(4, clusters, width << i, generator=generator) for i in range(4))
    return Anchors(levels=levels, weights=torch.ones(4, clusters))


def site_model(own=("flair", "t2"), *, calibration=None, shared=False, seed=0):
    architecture = Architecture(
        modalities=TASK.modalities, own=own, classes=4, width=4, calibration=calibration, shared=shared
    )
    return SiteModel(
        architecture=architecture,
        task=TASK,
        settings=Settings(spacing=(1.0, 1.5, 2.0), min_size=16),
        window=16,
        provenance=Provenance(run="a run", method="fedmepd", member="site-1", round_number=7),
        weights=build(architecture, seed).state_dict(),
        anchors=anchors_of() if calibration else None,
    )


@pytest.fixture
def saved(tmp_path):
    def saver(**options):
        path = tmp_path / "models" / "site-1.safetensors"
        save_model(path, site_model(**options))
        return path

    return saver


def rewrite(path, *, header=None, tensors=None):
    """Write the file again with another header or other tensors, as a careless tool would."""
    with safe_open(path, framework="pt") as file:
        metadata, content = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    (header or (lambda _: None))(metadata)
    (tensors or (lambda _: None))(content)
    safetensors.torch.save_file(content, path, metadata)


def refused(path):
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("options", [{}, {"calibration": "residual"}, {"shared": True}], ids=str)
def test_a_loaded_model_predicts_what_the_trained_network_predicts(saved, options):
    model = site_model(**options)
    trained = build(model.architecture, 0).eval()
    if options.get("calibration"):  # away from a start at which the anchors do not matter
        torch.nn.init.normal_(trained.calibration.level1.output.weight, generator=torch.Generator().manual_seed(1))
    path = saved()
    save_model(path, replace(model, weights=trained.state_dict()))
    loaded = load_model(path)
    network = network_of(loaded, CPU)
    image = torch.randn(1, 2, 16, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(network(image, loaded.anchors).probabilities, trained(image, model.anchors).probabilities)
    assert not network.training


def test_everything_else_comes_back_too(saved):
    loaded, model = load_model(saved(calibration="paper")), site_model(calibration="paper")
    for name in ("architecture", "task", "settings", "window", "provenance"):
        assert getattr(loaded, name) == getattr(model, name)
    assert all(torch.equal(a, b) for a, b in zip(loaded.anchors.levels, model.anchors.levels, strict=True))
    assert torch.equal(loaded.anchors.weights, model.anchors.weights)
    assert fingerprint(loaded) == fingerprint(model)


def test_the_fingerprint_tells_models_apart():
    assert fingerprint(site_model()) == fingerprint(site_model())
    assert fingerprint(site_model()) != fingerprint(site_model(seed=1))
    assert fingerprint(site_model()) != fingerprint(replace(site_model(), window=24))


def test_the_auxiliary_decoder_is_left_out(saved):
    path = saved()
    with safe_open(path, framework="pt") as file:
        assert not [name for name in file.keys() if name.startswith("auxiliary")]  # noqa: SIM118
        assert json.loads(file.metadata()["provenance"])["member"] == "site-1"
    assert network_of(load_model(path), CPU).auxiliary is None


def test_saving_replaces_the_file_and_leaves_nothing_else(saved):
    path = saved()
    save_model(path, site_model(seed=1))
    assert fingerprint(load_model(path)) == fingerprint(site_model(seed=1))
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_loading_keeps_no_hold_on_the_file(saved):
    path = saved()
    loaded = load_model(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert fingerprint(loaded) == fingerprint(site_model())


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match=r"model file .* cannot be written \(.+\)\. free space"):
        save_model(tmp_path / "file" / "model.safetensors", site_model())


def test_no_such_file(tmp_path):
    assert "no such model file" in refused(tmp_path / "absent.safetensors")
    assert "no such model file" in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle", bytes(range(256)) * 8], ids=["empty", "zip", "noise"])
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert "is no model file, or is truncated or corrupted" in refused(path)


@pytest.mark.parametrize("kept", [0.0005, 0.5, 0.9999])
def test_a_truncated_file(saved, kept):
    path = saved()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert "truncated" in refused(path)


def test_a_flipped_bit_in_the_weights(saved):
    path = saved()
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    assert "corrupted: its content does not match its checksum" in refused(path)


def test_a_changed_header(saved):
    path = saved()
    rewrite(path, header=lambda header: header.update(window="24"))
    assert "does not match its checksum" in refused(path)


def test_a_safetensors_file_of_something_else(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path)
    assert "is no fedmepd model" in refused(path)


def test_a_newer_schema(saved):
    path = saved()
    rewrite(path, header=lambda header: header.update(schema="2"))
    assert "has schema 2, newer than the 1" in refused(path)
    assert "update fedmepd" in refused(path)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("task", None, "it has no 'task'"),
        ("architecture", "{", "cannot be understood"),
        ("architecture", '{"modalities": ["flair"]}', "own Field required"),
        ("settings", '{"margin": -1}', "margin -1"),
        ("window", "20", "window 20 is no multiple of 8"),
    ],
)
def test_a_header_that_makes_no_sense(saved, key, value, problem):
    path = saved()
    rewrite(path, header=lambda header: header.pop(key) if value is None else header.update({key: value}))
    assert problem in refused(path)


def test_a_task_that_does_not_fit_the_network(saved):
    path = saved()
    other = load_task("head-neck")
    rewrite(path, header=lambda header: header.update(task=json.dumps(other.to_dict())))
    assert "its network has modalities flair, t1ce, t1, t2 and 4 classes, its task 'head-neck' has" in refused(path)


def test_weights_of_another_architecture_name_the_first_difference(saved):
    path = saved()
    wider = json.dumps({"modalities": TASK.modalities, "own": ["flair", "t2"], "classes": 4, "width": 8})
    rewrite(path, header=lambda header: header.update(architecture=wider))
    assert "tensor 'encoders.flair.level1.first.conv.weight' is float32 (4, 1, 3, 3, 3), its architecture has" in (
        refused(path)
    )
    more = json.dumps({"modalities": TASK.modalities, "own": ["flair", "t1", "t2"], "classes": 4, "width": 4})
    rewrite(path, header=lambda header: header.update(architecture=more))
    assert "lacks tensor 'encoders.t1.level1.first.conv.bias'" in refused(path)
    fewer = json.dumps({"modalities": TASK.modalities, "own": ["flair"], "classes": 4, "width": 4})
    rewrite(path, header=lambda header: header.update(architecture=fewer))
    assert "has unexpected tensor 'encoders.t2.level1.first.conv.bias'" in refused(path)


def test_calibration_without_anchors(saved):
    path = saved(calibration="residual")
    rewrite(path, tensors=lambda content: content.pop("anchors/level3"))
    assert "lacks tensor 'anchors/level3'" in refused(path)
    with pytest.raises(ModelFileError, match="lacks tensor 'anchors/level1'"):
        save_model(path, replace(site_model(calibration="residual"), anchors=None))


def test_anchors_of_a_member_without_calibration_are_left_out(tmp_path):
    path = tmp_path / "server.safetensors"
    save_model(path, replace(site_model(), anchors=anchors_of()))
    assert load_model(path).anchors is None


def test_anchors_of_another_size(saved):
    path = saved(calibration="residual")
    rewrite(path, tensors=lambda content: content.update({"anchors/level2": torch.zeros(4, 3, 8)}))
    assert "tensor 'anchors/level2' is float32 (4, 3, 8), its architecture has float32 (4, 2, 8)" in refused(path)


def test_weights_that_are_not_finite(saved, tmp_path):
    path = saved()
    rewrite(path, tensors=lambda content: content["decoder.classify.bias"].fill_(float("nan")))
    assert "tensor 'decoder.classify.bias' has NaN or infinite values" in refused(path)
    weights = dict(site_model().weights) | {"decoder.classify.bias": torch.full((4,), float("inf"))}
    with pytest.raises(ModelFileError, match="has NaN or infinite values"):
        save_model(tmp_path / "diverged.safetensors", replace(site_model(), weights=weights))
    assert not (tmp_path / "diverged.safetensors").exists()


def test_weights_of_another_precision(saved):
    path = saved()
    rewrite(path, tensors=lambda content: content.update({k: v.half() for k, v in content.items()}))
    assert "is float16 (4, 1, 3, 3, 3), its architecture has float32 (4, 1, 3, 3, 3)" in refused(path)
