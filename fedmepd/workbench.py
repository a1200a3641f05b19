"""What a training worker keeps open between jobs: its backend and the member's patients, opened at first need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fedmepd.anchors import Anchors
from fedmepd.cohorts import check_cohort
from fedmepd.compute import Backend, resolve_backend
from fedmepd.encoders import LEVELS, level_channels
from fedmepd.facts import describe_member, parameters_of
from fedmepd.federation import FederationMember, clusters_of, open_member
from fedmepd.jobs import Check, Opening
from fedmepd.layout_json import layout_digest, layout_to_json
from fedmepd.participants import LeadParticipant, SiteParticipant
from fedmepd.plan import Plan, dump_plan
from fedmepd.sections import Compute
from fedmepd.task import load_task
from fedmepd.worker import Progress

_PARTS = ("train", "validate", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Patients and backend of a member, and the cases that were left out with the reason."""

    member: FederationMember
    backend: Backend
    skipped: tuple[tuple[str, str], ...]


class Workbench:
    """Opens a member once per process, as long as it is asked for with the same settings."""

    def __init__(self) -> None:
        self._key: object = None
        self._opened: Opened | None = None

    def open(self, opening: Opening, plan: Plan, progress: Progress) -> Opened:
        """Return the member's patients and backend.

        Raises:
            CohortError: If the cohort or a case cannot be used, naming it.
            ConfigError: If the device is not there.
        """
        key = (opening, dump_plan(plan))
        if self._opened is None or self._key != key:
            skipped: list[tuple[str, str]] = []
            member = open_member(
                opening.member,
                plan,
                cache=opening.cache,
                skip_invalid=opening.skip_invalid,
                progress=lambda done, cases: progress(phase="preparing", done=done, of=cases),
                on_skip=lambda case, reason: skipped.append((case, reason)),
            )
            backend = backend_of(opening.compute)
            self._key, self._opened = key, Opened(member=member, backend=backend, skipped=tuple(skipped))
        return self._opened


def backend_of(compute: Compute) -> Backend:
    """Set the process up as configured."""
    return resolve_backend(
        compute.device, precision=compute.precision, compile_networks=compute.compile, threads=compute.threads
    )


def opened_facts(opened: Opened, participant: SiteParticipant | LeadParticipant, opening: Opening) -> dict[str, Any]:
    """Return what an `open` job answers: patients, network and layout."""
    architecture = participant.learner.architecture
    return {
        **machine_facts(opened),
        "training_patients": participant.learner.patients,
        "skipped": [{"case": case, "reason": reason} for case, reason in opened.skipped],
        "architecture": {
            "modalities": list(architecture.modalities),
            "own": list(architecture.own),
            "classes": architecture.classes,
            "width": architecture.width,
            "calibration": architecture.calibration,
            "shared": architecture.shared,
        },
        "parameters": parameters_of(participant.learner.network),
        "layout": layout_to_json(participant.rules.layout),
        "layout_digest": layout_digest(participant.rules.layout),
        "member": describe_member(opened.member, opening.cache),
    }


def machine_facts(opened: Opened) -> dict[str, Any]:
    """Return what a member computes on, and with how many patients: by part, and by modality, as each has them all."""
    member, device = opened.member, opened.backend.device
    patients = {part: len(getattr(member.patients, part)) for part in _PARTS}
    return {
        "patients": patients,
        "modality_patients": dict.fromkeys(member.modalities, sum(patients.values())),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def check(job: Check, progress: Progress) -> dict[str, Any]:
    """Answer a `check` job: the machine and, where one is named, the cohort with every case read."""
    backend = backend_of(job.compute)
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "device": str(backend.device),
        **_gpu_facts(backend),
        "threads": torch.get_num_threads(),
        "bfloat16": backend.bfloat16,
        "cohort": None,
    }
    if job.cohort is not None:
        report = check_cohort(
            job.cohort,
            task=load_task(job.task) if job.task else None,
            layout=job.layout,
            modalities=job.modalities,
            progress=lambda done, cases: progress(phase="reading", done=done, of=cases),
        ).to_dict()
        names = sorted({name for case in report["cases"] for name in case["modalities"]})
        counts = {name: sum(name in case["modalities"] for case in report["cases"]) for name in names}
        facts["cohort"] = {**report, "per_modality": counts}
    return facts


def _gpu_facts(backend: Backend) -> dict[str, Any]:
    """Return what a `check` job says of the GPU; `cuda` is the version that PyTorch was built for, if any."""
    facts: dict[str, Any] = {"device_name": None, "cuda": torch.version.cuda}
    if backend.device.type == "cuda":
        properties, built = torch.cuda.get_device_properties(backend.device), torch.cuda.get_arch_list()
        kinds = {name.partition("_")[2].rstrip("af") for name in built}
        facts |= {
            "device_name": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "gpu_capability": f"{properties.major}.{properties.minor}",
            "gpu_fits": not kinds or any(_runs_on(kind, properties.major, properties.minor) for kind in kinds),
        }
    return facts


def _runs_on(kind: str, major: int, minor: int) -> bool:
    """Whether code for a compute capability, such as `86`, runs on a GPU: of its generation, not newer."""
    return kind.isdecimal() and int(kind[:-1]) == major and int(kind[-1]) <= minor


def anchor_arrays(anchors: Anchors) -> dict[str, Any]:
    """Return anchors as named arrays, as `fedmepd.artefacts` writes them."""
    levels = {f"level{i}": level.numpy() for i, level in enumerate(anchors.levels, start=1)}
    return levels | {"weights": anchors.weights.numpy()}


def anchors_from(arrays: Mapping[str, Any]) -> Anchors:
    """Build anchors from named arrays."""
    levels = tuple(torch.from_numpy(arrays[f"level{level}"]) for level in LEVELS)
    return Anchors(levels=levels, weights=torch.from_numpy(arrays["weights"]))


def anchor_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a plan's anchors; empty for methods without."""
    classes, clusters = len(load_task(plan.task).classes), clusters_of(plan)
    if not clusters:
        return {}
    levels = {f"level{level}": (classes, clusters, level_channels(plan.width, level)) for level in LEVELS}
    return {**levels, "weights": (classes, clusters)}
