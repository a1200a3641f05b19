"""Training of one member: weights in, weights out, optimiser moments kept across rounds.

A `Learner` owns a network as a workspace; its state is what is passed in. Given the same weights, moments and round it
does the same on the same machine, whatever it did before.

Source: paper section "training": Adam, learning rate 2e-4 with polynomial decay (1 - r/R)^0.9.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from fedmepd.anchors import Anchors, PrototypeTable, concatenate, prototypes
from fedmepd.compute import Backend
from fedmepd.errors import NotFiniteError
from fedmepd.losses import SegmentationLoss, SeparateLoss
from fedmepd.model import Architecture, Network, build, upsampled
from fedmepd.sampling import Batch, CropSource
from fedmepd.seeds import seed_of

Weights = Mapping[str, Tensor]
Moments = Mapping[str, Tensor]
StepHook = Callable[[int, int, float | None], None]
_POLYNOMIAL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserSettings:
    """How weights move.

    Attributes:
        name: `adam` (L2 inside) or `adamw` (decoupled decay).
        learning_rate: In the first round.
        weight_decay: In the optimiser's own meaning.
        rounds: R, over which the learning rate decays.
    """

    name: Literal["adam", "adamw"]
    learning_rate: float
    weight_decay: float
    rounds: int

    def rate(self, round_number: int) -> float:
        """Return the learning rate of a round (round 0 is the server's start)."""
        return self.learning_rate * float((1 - max(round_number - 1, 0) / self.rounds) ** _POLYNOMIAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Result of local training.

    Attributes:
        weights: All weights after training.
        moments: Optimiser moments by parameter and kind.
        loss: Mean loss over the steps; None where it is omitted because training was private.
        steps: Optimiser steps taken.
        seconds: Wall-clock time.
    """

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    loss: float | None
    steps: int
    seconds: float


class Learner:
    """Trains and applies one member's network.

    Args:
        architecture: Shapes.
        sources: Where batches come from; several for pooled data.
        optimiser: How weights move.
        backend: Where to compute.
        seed: The run's seed.
        member: Whose learner it is.
    """

    def __init__(
        self,
        architecture: Architecture,
        sources: Sequence[CropSource],
        *,
        optimiser: OptimiserSettings,
        backend: Backend,
        seed: int,
        member: str,
    ) -> None:
        self.architecture, self.sources = architecture, tuple(sources)
        self.optimiser, self.backend, self.seed, self.member = optimiser, backend, seed, member
        self.network = build(architecture, seed).to(backend.device)
        if backend.compile:
            self.network.compile_parts()

    @property
    def samples(self) -> int:
        """Training cases."""
        return sum(len(source.cases) for source in self.sources)

    @property
    def patients(self) -> int:
        """Training patients; one may have several cases."""
        return len({patient for source in self.sources for patient in source.patient_ids})

    def initial(self) -> dict[str, Tensor]:
        """Return fresh weights of the run's seed."""
        return {name: t.clone() for name, t in build(self.architecture, self.seed).state_dict().items()}

    def load(self, weights: Weights) -> None:
        """Put weights into the workspace."""
        self.network.load_state_dict(weights)

    def train(
        self,
        weights: Weights,
        moments: Moments,
        *,
        anchors: Anchors | None,
        round_number: int,
        steps: Sequence[int],
        hook: StepHook | None = None,
    ) -> Trained:
        """Take a round's optimiser steps.

        Args:
            weights: Where to start.
            moments: Moments after the member's last round; empty in its first.
            anchors: Anchors of the round, for members with LACCA.
            round_number: Decides crops, dropout and learning rate.
            steps: Batches per source.
            hook: Called after each step with (step, steps, loss); the loss is None where training is private.

        Raises:
            NotFiniteError: If the loss is not finite.
        """
        started = time.perf_counter()
        self.load(weights)
        self.network.train()
        if self.network.calibration is not None:
            seed = seed_of("dropout", self.seed, self.member, round_number)
            self.network.calibration.seed_dropout([seed], self.backend.device)
        optimiser = self._optimiser(moments, round_number)
        anchors = None if anchors is None else anchors.to(self.backend.device)
        losses: list[float] = []
        for batch in self._batches(round_number, steps):
            losses.append(self._step(optimiser, batch, anchors))
            if hook is not None:
                hook(len(losses), sum(steps), losses[-1])
        return Trained(
            weights={name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()},
            moments=self._moments(optimiser),
            loss=sum(losses) / max(len(losses), 1),
            steps=len(losses),
            seconds=time.perf_counter() - started,
        )

    def prototypes(self, weights: Weights, *, alone: bool = False) -> PrototypeTable:
        """Pool the features of every training patient, from one crop around the labelled classes, at fixed weights.

        Args:
            weights: The weights.
            alone: One case at a time, so that no rounding depends on who else is there.
        """
        self.load(weights)
        self.network.eval()
        tables = []
        with torch.inference_mode(), self.backend.autocast():
            for source in self.sources:
                for batch in source.centred(1 if alone else None):
                    images = batch.images.to(self.backend.device)
                    fused = self.network(images, given=batch.given).fused
                    table = prototypes(fused, batch.label.to(self.backend.device), self.architecture.classes)
                    tables.append(table)
        joined = concatenate(tables)
        return PrototypeTable(
            levels=tuple(level.cpu().clone() for level in joined.levels), occupancy=joined.occupancy.cpu().clone()
        )

    def _step(self, optimiser: torch.optim.Optimizer, batch: Batch, anchors: Anchors | None) -> float:
        device = self.backend.device
        optimiser.zero_grad(set_to_none=True)
        images, label = batch.images.to(device), batch.label.to(device)
        value = backward(self.network, images, label, anchors=anchors, given=batch.given, backend=self.backend)
        if not math.isfinite(value):
            raise NotFiniteError(f"{self.member}: the training loss is {value}", remedy="lower training.learning_rate")
        optimiser.step()
        return value

    def _batches(self, round_number: int, steps: Sequence[int]) -> Iterator[Batch]:
        """Mix the sources' batches in a seeded order."""
        turns = [index for index, count in enumerate(steps) for _ in range(count)]
        generator = torch.Generator().manual_seed(seed_of("mix", self.seed, self.member, round_number))
        streams = [source.batches(round_number, count) for source, count in zip(self.sources, steps, strict=True)]
        for turn in torch.randperm(len(turns), generator=generator).tolist():
            yield next(streams[turns[turn]])

    def _optimiser(self, moments: Moments, round_number: int) -> torch.optim.Optimizer:
        kind = torch.optim.AdamW if self.optimiser.name == "adamw" else torch.optim.Adam
        named = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
        optimiser = kind(
            [p for _, p in named],
            lr=self.optimiser.rate(round_number),
            weight_decay=self.optimiser.weight_decay,
            fused=True,
        )
        for name, parameter in named:
            if f"{name}/step" in moments:
                optimiser.state[parameter] = {
                    "step": moments[f"{name}/step"].clone().to(parameter.device),
                    "exp_avg": _like(moments[f"{name}/exp_avg"], parameter),
                    "exp_avg_sq": _like(moments[f"{name}/exp_avg_sq"], parameter),
                }
        return optimiser

    def _moments(self, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
        return {
            f"{name}/{kind}": tensor.detach().cpu().clone()
            for name, parameter in self.network.named_parameters()
            for kind, tensor in optimiser.state.get(parameter, {}).items()
        }


def backward(
    network: Network,
    images: Float[Tensor, "batch given d h w"],
    label: Integer[Tensor, "batch d h w"],
    *,
    anchors: Anchors | None,
    given: tuple[str, ...],
    backend: Backend,
    separate: bool = False,
) -> float:
    """Add the gradients of the training loss to the parameters and return the loss.

    Same gradients as `training_loss(network(...)).backward()`, in less memory: the encoders' maps are cut from the
    graph, every prediction that starts from them is propagated back at once, which frees its activations before the
    next one is made, and the sum of the maps' gradients then goes through the encoders.

    Args:
        network: In training mode.
        images: Images of the given modalities in canonical order.
        label: Class indices at full resolution.
        anchors: Anchors of the round, used where the member has LACCA.
        given: Which of the member's modalities are given.
        backend: Where and how to compute.
        separate: Take the sum of each sample's own loss instead of the loss of all together.
    """
    loss = (SeparateLoss if separate else SegmentationLoss)(label, network.architecture.classes)
    if network.auxiliary is None:
        with backend.autocast():
            prediction = network(images, given=given).probabilities
        return _propagate(loss(prediction))
    with backend.autocast():
        maps = network.features(images, given)
    cut = [[m.detach().requires_grad_() for m in modality] for modality in maps]
    total = 0.0
    for modality in cut:
        with backend.autocast():
            prediction = network.auxiliary(modality)
        total += _propagate(loss(prediction))
    with backend.autocast():
        decoded = network.decode(cut, given, anchors)
    total += _propagate(loss(decoded.probabilities) + sum(loss(p) for p in upsampled(decoded.prm)))
    del decoded
    torch.autograd.backward([m for modality in maps for m in modality], [m.grad for modality in cut for m in modality])
    return total


def _propagate(loss: Tensor) -> float:
    loss.backward()
    return float(loss.detach())


def _like(moment: Tensor, parameter: Tensor) -> Tensor:
    """Copy a moment into the memory layout of its parameter, as the fused optimiser expects."""
    return torch.empty_like(parameter).copy_(moment)
