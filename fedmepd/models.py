"""Model files: one member's trained network in one self-describing safetensors file.

Guarantees that a file which `load_model` accepts is whole (a checksum covers header and tensors), finite, and holds
exactly the tensors of the architecture that it states; anything else is a `ModelFileError` of one line. A file appears
under its name only when it is complete and on disk. The auxiliary decoder is left out: prediction never needs it.

The header is metadata of JSON strings: format, schema, architecture, task, settings (how images are prepared), window
(edge of the sliding window in voxels), provenance, digest. Tensors carry the names of `fedmepd.model.Network`, and
`anchors/level1` to `anchors/level4` and `anchors/weights` for members with LACCA. Nothing of a patient is in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedmepd import __version__
from fedmepd.anchors import Anchors
from fedmepd.cohorts.prepare import Settings
from fedmepd.compute import Backend
from fedmepd.durable import write_bytes
from fedmepd.encoders import LEVELS, level_channels
from fedmepd.errors import FedmepdError, ModelFileError
from fedmepd.inference import check_window
from fedmepd.model import Architecture, Network
from fedmepd.task import Task, from_dict

_FORMAT = "fedmepd-model"
_SCHEMA = 1
_AUXILIARY = "auxiliary."
_ANCHOR_WEIGHTS = "anchors/weights"
_AGAIN = "copy the file again, or write it anew with `fedmepd simulate`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a model comes from.

    Attributes:
        run: Name of the run.
        method: Name of the method.
        member: Id of the member, such as `site-1`.
        round_number: Round after whose local training the weights were taken.
        version: Version of fedmepd that trained it.
    """

    run: str
    method: str
    member: str
    round_number: int
    version: str = __version__


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SiteModel:
    """All that prediction needs of a member.

    Attributes:
        architecture: Shapes; `architecture.own` are the modalities that a case must have.
        task: Names modalities, classes and the label values of predictions.
        settings: How images are prepared.
        window: Edge of the sliding window in voxels, a multiple of 8 and at least 16.
        provenance: Where it comes from.
        weights: Tensors by their name in `Network`; those of the auxiliary decoder are ignored.
        anchors: Anchors of the last round, needed if the architecture has calibration and ignored otherwise.
    """

    architecture: Architecture
    task: Task
    settings: Settings
    window: int
    provenance: Provenance
    weights: Mapping[str, Tensor]
    anchors: Anchors | None


def save_model(path: str | Path, model: SiteModel) -> None:
    """Write a model file, atomically; a file that is there is replaced.

    Args:
        path: Where to; the folder is made as needed.
        model: What to write.

    Raises:
        ModelFileError: If the model's parts do not fit together, it is not finite, or the file cannot be written.
    """
    path = Path(path)
    tensors, header = _tensors(model), _header(model)
    _check_parts(path, model.architecture, model.task, model.window)
    _check_tensors(path, model.architecture, tensors)
    content = safetensors.torch.save(tensors, {**header, "digest": _digest(header, tensors)})
    try:
        write_bytes(path, content)
    except OSError as error:
        raise ModelFileError(
            f"model file {path} cannot be written ({error.strerror})", remedy="free space or name another folder"
        ) from error


def load_model(path: str | Path) -> SiteModel:
    """Read a model file and check all of it.

    Args:
        path: The file.

    Raises:
        ModelFileError: If there is no such file, or it is corrupted, of another kind, or of a newer schema, or its
            tensors are not those of its architecture.
    """
    path = Path(path)
    metadata, tensors = _read(path)
    header = _known(path, metadata)
    try:
        architecture = TypeAdapter(Architecture).validate_json(header["architecture"])
        task = from_dict(json.loads(header["task"]), source="task")
        settings = TypeAdapter(Settings).validate_json(header["settings"])
        window = TypeAdapter(int).validate_json(header["window"])
        provenance = TypeAdapter(Provenance).validate_json(header["provenance"])
    except (KeyError, ValueError, TypeError, FedmepdError) as error:
        raise _misunderstood(path, error) from error
    _check_parts(path, architecture, task, window)
    _check_tensors(path, architecture, tensors)
    if metadata.get("digest") != _digest(header, tensors):
        raise ModelFileError(f"{path} is corrupted: its content does not match its checksum", remedy=_AGAIN)
    return SiteModel(
        architecture=architecture,
        task=task,
        settings=settings,
        window=window,
        provenance=provenance,
        weights={name: tensor for name, tensor in tensors.items() if not name.startswith("anchors/")},
        anchors=_anchors(tensors),
    )


def network_of(model: SiteModel, backend: Backend) -> Network:
    """Return the model's network in evaluation mode on a device; it has no auxiliary decoder.

    Args:
        model: From `load_model`.
        backend: Where to compute.
    """
    with torch.device("meta"):  # draws no random numbers and allocates nothing that is overwritten at once
        network = Network(model.architecture)
    network.auxiliary = None
    weights = {name: tensor.clone() for name, tensor in model.weights.items() if not name.startswith(_AUXILIARY)}
    network.load_state_dict(weights, strict=True, assign=True)
    network.to(backend.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # missing in stubs
    return network.eval()


def fingerprint(model: SiteModel) -> str:
    """Return what identifies a model: SHA-256 over its header and tensors, in hexadecimal."""
    return _digest(_header(model), _tensors(model))


def _header(model: SiteModel) -> dict[str, str]:
    parts = {
        "architecture": asdict(model.architecture),
        "task": model.task.to_dict(),
        "settings": asdict(model.settings),
        "window": model.window,
        "provenance": asdict(model.provenance),
    }
    return {"format": _FORMAT, "schema": str(_SCHEMA)} | {key: json.dumps(value) for key, value in parts.items()}


def _tensors(model: SiteModel) -> dict[str, Tensor]:
    tensors = {name: tensor for name, tensor in model.weights.items() if not name.startswith(_AUXILIARY)}
    if model.anchors is not None and model.architecture.calibration is not None:
        tensors |= {f"anchors/level{i}": level for i, level in enumerate(model.anchors.levels, start=1)}
        tensors[_ANCHOR_WEIGHTS] = model.anchors.weights
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _anchors(tensors: Mapping[str, Tensor]) -> Anchors | None:
    if _ANCHOR_WEIGHTS not in tensors:
        return None
    levels = tuple(tensors[f"anchors/level{level}"] for level in LEVELS)
    return Anchors(levels=levels, weights=tensors[_ANCHOR_WEIGHTS])


def _digest(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file", remedy="name a file that `fedmepd simulate` wrote")
    try:
        with safe_open(path, framework="pt") as file:
            # a copy, because what comes from the file is mapped and would change with it
            return file.metadata() or {}, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror or error})", remedy=_AGAIN) from error
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise ModelFileError(
            f"{path} is no model file, or is truncated or corrupted ({reason})", remedy=_AGAIN
        ) from error


def _known(path: Path, metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the header without its digest, if it is of our format and a schema that this version reads."""
    schema = metadata.get("schema", "")
    if metadata.get("format") != _FORMAT or not schema.isdecimal():
        raise ModelFileError(
            f"{path} is no fedmepd model, although it is a safetensors file",
            remedy="name a file that `fedmepd simulate` wrote",
        )
    if int(schema) > _SCHEMA:
        raise ModelFileError(
            f"{path} has schema {schema}, newer than the {_SCHEMA} that fedmepd {__version__} reads",
            remedy="update fedmepd",
        )
    return {key: value for key, value in metadata.items() if key != "digest"}


def _misunderstood(path: Path, error: Exception) -> ModelFileError:
    reason = str(error).rstrip(".")
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        reason = " ".join([*map(str, first["loc"]), first["msg"]])
    elif isinstance(error, KeyError):
        reason = f"it has no {error}"
    return ModelFileError(f"{path} has a header that cannot be understood ({reason})", remedy=_AGAIN)


def _check_parts(path: Path, architecture: Architecture, task: Task, window: int) -> None:
    if architecture.modalities != task.modalities or architecture.classes != len(task.classes):
        raise ModelFileError(
            f"{path}: its network has modalities {', '.join(architecture.modalities)} and {architecture.classes} "
            f"classes, its task {task.name!r} has {', '.join(task.modalities)} and {len(task.classes)}",
            remedy=_AGAIN,
        )
    try:
        ordered = task.ordered(architecture.own)
        check_window(window)
    except FedmepdError as error:
        raise _misunderstood(path, error) from error
    if ordered != architecture.own:
        raise ModelFileError(f"{path}: its modalities {architecture.own} are out of order", remedy=_AGAIN)


def _check_tensors(path: Path, architecture: Architecture, tensors: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and values with what the architecture asks for; the first difference is named."""
    expected = _expected(architecture, tensors)
    _refuse_first(path, "lacks tensor", (name for name in expected if name not in tensors))
    _refuse_first(path, "has unexpected tensor", (name for name in tensors if name not in expected))
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape or tensors[name].dtype != torch.float32:
            found = f"{str(tensors[name].dtype).removeprefix('torch.')} {tuple(tensors[name].shape)}"
            raise ModelFileError(
                f"{path}: tensor {name!r} is {found}, its architecture has float32 {shape}", remedy=_AGAIN
            )
        if not bool(torch.isfinite(tensors[name]).all()):
            raise ModelFileError(
                f"{path}: tensor {name!r} has NaN or infinite values", remedy="its training diverged; train anew"
            )


def _refuse_first(path: Path, what: str, names: Iterable[str]) -> None:
    found = sorted(names)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ModelFileError(f"{path} {what} {found[0]!r} for its stated architecture{more}", remedy=_AGAIN)


def _expected(architecture: Architecture, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = Network(architecture).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if not name.startswith(_AUXILIARY)}
    if architecture.calibration is not None:
        found = tensors.get(_ANCHOR_WEIGHTS)  # how many clusters there are, only the file knows
        clusters = found.shape[-1] if found is not None and found.dim() else 1
        channels = {f"anchors/level{level}": level_channels(architecture.width, level) for level in LEVELS}
        shapes |= {name: (architecture.classes, clusters, count) for name, count in channels.items()}
        shapes[_ANCHOR_WEIGHTS] = (architecture.classes, clusters)
    return shapes
