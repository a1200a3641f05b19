"""The attack: has this patient trained? Asked of an update, with what the coordinator of a run holds.

The coordinator wrote the plan and knows its seed, it sent the model, and it has the images of a candidate whom it
suspects. Crops, augmentation and dropout of step p follow from seed, site and round, so it repeats step p with the
candidate and gets the gradient that the candidate would have caused there. If the candidate did train, one of these
gradients points against the update.

    c(x, p) = cosine of the observed update and minus the gradient of candidate x at step p
    score(x) = max over p of (c(x, p) - mean over candidates) / deviation over candidates

A blind attacker does not know the seed and repeats steps with crops of its own making.
Exact at the first step; at later steps the model has moved, by little. Nothing here is the best possible attack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from fedmepd.anchors import Anchors
from fedmepd.cohorts import PreparedCase
from fedmepd.compute import Backend
from fedmepd.federation import FederationMember, settings_of
from fedmepd.fixed_point import Ring
from fedmepd.layout import FloatArray
from fedmepd.leak.scene import Hospital, Scene
from fedmepd.model import Network
from fedmepd.participants import SiteParticipant
from fedmepd.patients import MemberPatients, Patients
from fedmepd.round_state import Rules
from fedmepd.rounds import site_round
from fedmepd.sampling import CropSource
from fedmepd.seeds import seed_of
from fedmepd.training import Trained, backward

_FLAT = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the attacker computed about the candidates of one site, before it looks at any update.

    Attributes:
        site: The site.
        modalities: What the site owns.
        trained: Whether each candidate did train there; the judge's, not the attacker's.
        directions: Minus the gradient per candidate and step, at length 1.
    """

    site: str
    modalities: tuple[str, ...]
    trained: npt.NDArray[np.bool_]
    directions: Float[np.ndarray, "candidate step value"]

    def scores(self, observed: Float[np.ndarray, " value"]) -> Float[np.ndarray, " candidate"]:
        """Score every candidate against an update.

        Args:
            observed: The update as `decode` gives it, or a sum of several.
        """
        length = max(float(np.linalg.norm(observed)), _FLAT)
        cosines = self.directions @ (observed / length).astype(np.float32)
        spread = np.maximum(cosines.std(axis=0), _FLAT)
        standard: npt.NDArray[np.float32] = (cosines - cosines.mean(axis=0)) / spread
        highest: npt.NDArray[np.float64] = standard.max(axis=1).astype(np.float64)
        return highest


def decode(vectors: Mapping[str, Ring], rules: Rules, own: Sequence[str]) -> Float[np.ndarray, " value"]:
    """Read the changes of weights out of a contribution, or of a sum of contributions.

    Args:
        vectors: Integers per segment.
        rules: The run's rules.
        own: Modalities whose segments are read, with the common one.
    """
    parts = []
    for segment in rules.layout.for_member(own):
        vector, plain = vectors[segment.name], segment.plain_values
        parts.append(rules.formats.delta.decode(vector[:plain]))
        parts.append(rules.formats.weighted.decode(vector[plain : plain + segment.filter_values]))
    return np.concatenate(parts)


def gather_evidence(
    scene: Scene, hospital: Hospital, backend: Backend, on_candidate: Callable[[], None] | None = None
) -> Evidence:
    """Repeat each step of the site's training with each candidate.

    Args:
        scene: The run.
        hospital: The site that is attacked.
        backend: Where to compute.
        on_candidate: Called after each candidate.
    """
    attacker = _impersonate(scene, hospital, backend)
    model = _model_of_the_round(attacker, scene, hospital)
    seed = attacker.learner.seed if not scene.setup.blind else seed_of("another seed", attacker.learner.seed)
    rows = []
    for case in hospital.candidates:
        gradients = _gradients(attacker, model, case, hospital, seed=seed)
        rows.append(np.stack([-g / max(float(np.linalg.norm(g)), _FLAT) for g in gradients]))
        if on_candidate is not None:
            on_candidate()
    trained = [True] * len(hospital.trained) + [False] * len(hospital.held_out)
    return Evidence(
        site=hospital.site,
        modalities=hospital.modalities,
        trained=np.array(trained),
        directions=np.stack(rows).astype(np.float32),
    )


def _impersonate(scene: Scene, hospital: Hospital, backend: Backend) -> SiteParticipant:
    """Build what the site computes with, but without patients: for that, the plan and the site's id are enough."""
    nobody = Patients((), hospital.modalities, settings_of(scene.spec.plan), None)
    patients = MemberPatients(train=nobody, validate=nobody, test=nobody)
    member = FederationMember(id=hospital.site, modalities=hospital.modalities, patients=patients)
    return SiteParticipant(scene.spec, member, backend)


@dataclass(slots=True)
class _Onlooker:
    """Stands in for training: keeps the weights that training would start from, and leaves them as they are."""

    weights: dict[str, Tensor] = field(default_factory=dict)

    def __call__(
        self,
        weights: Mapping[str, Tensor],
        moments: Mapping[str, Tensor],
        anchors: Anchors | None,  # noqa: ARG002  part of what rounds call
        round_number: int,  # noqa: ARG002  likewise
    ) -> Trained:
        self.weights = {name: tensor.clone() for name, tensor in weights.items()}
        return Trained(weights=dict(weights), moments=dict(moments), loss=0.0, steps=0, seconds=0.0)


def _model_of_the_round(attacker: SiteParticipant, scene: Scene, hospital: Hospital) -> dict[str, Tensor]:
    """Return the weights with which the site began its first round: from the coordinator, and from the seed."""
    onlooker = _Onlooker()
    site_round(
        attacker.start(scene.start),
        hospital.broadcast,
        onlooker,
        rules=attacker.rules,
        own=hospital.modalities,
        site=hospital.site,
        samples=0,
    )
    return onlooker.weights


def _gradients(
    attacker: SiteParticipant, model: Mapping[str, Tensor], case: PreparedCase, hospital: Hospital, *, seed: int
) -> Iterator[FloatArray]:
    """Yield, step by step, the gradient that a candidate would cause with the crop, flips and dropout of that step."""
    learner, round_number = attacker.learner, hospital.broadcast.round_number
    network, device = learner.network, learner.backend.device
    learner.load(model)
    network.train()
    if network.calibration is not None:
        network.calibration.seed_dropout([seed_of("dropout", seed, learner.member, round_number)], device)
    settings = learner.sources[0].settings
    source = CropSource([case], settings, seed=seed, member=learner.member, given=hospital.modalities)
    for batch in source.batches(round_number, len(hospital.trained)):
        network.zero_grad(set_to_none=True)
        anchors = hospital.broadcast.anchors
        backward(network, batch.images, batch.label, anchors=anchors, given=batch.given, backend=learner.backend)
        yield _flat(network, attacker.rules, hospital.modalities)


def _flat(network: Network, rules: Rules, own: Sequence[str]) -> FloatArray:
    """Lay the gradients out as `decode` lays out an update."""
    arrays = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in network.named_parameters()}
    numbers = {name: tensor.numpy() for name, tensor in arrays.items()}
    parts = [(s.gather_plain(numbers), s.gather_filters(numbers)) for s in rules.layout.for_member(own)]
    return np.concatenate([part for pair in parts for part in pair])
