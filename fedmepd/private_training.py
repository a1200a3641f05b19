"""DP-SGD: training in which no single patient decides anything.

Guarantees, per step: each patient is drawn independently with a known probability (Poisson sampling, which the
accounting assumes); a drawn patient's gradient over all trainable parameters together is clipped to a fixed L2 norm;
the sum gets Gaussian noise and is divided by the *expected* number of patients. A step that draws nobody is taken, with
noise alone. The number of steps is the plan's, not the data's. A patient's gradient depends on that patient, the
weights and public seeds only: crops and dropout are seeded by patient and step, the loss is each crop's own, and no
layer mixes samples. The loss is omitted from what training returns.

It does not account for what it spends (`fedmepd.spending` says what that is), and it protects training patients only:
validation chooses among rounds by other patients. The number of training patients is taken to be public. Gradients are
single precision; bfloat16 and compilation are off.

Source: security/SPEC.md 15; Abadi et al. 2016.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedmepd.anchors import Anchors
from fedmepd.compute import Backend
from fedmepd.model import Architecture, Network
from fedmepd.noise import Randomness
from fedmepd.sampling import Batch, CropSource
from fedmepd.sections import TrainingPrivacy
from fedmepd.seeds import seed_of
from fedmepd.spending import rate_of
from fedmepd.training import Learner, Moments, OptimiserSettings, StepHook, Trained, Weights, backward

if TYPE_CHECKING:
    from fedmepd.private_optimiser import NoisyOptimiser


class PrivateLearner(Learner):
    """A learner whose training protects every patient.

    Args:
        architecture: Shapes.
        sources: Where crops come from: one, since pooled patients have no one who answers for them.
        optimiser: How weights move.
        backend: Where to compute.
        seed: The run's seed.
        member: Whose learner it is.
        settings: Noise, clip and sampling.
        randomness: Unpredictable source of the noise and of who is drawn.
    """

    def __init__(  # noqa: PLR0913  a learner's arguments and two more
        self,
        architecture: Architecture,
        sources: Sequence[CropSource],
        *,
        optimiser: OptimiserSettings,
        backend: Backend,
        seed: int,
        member: str,
        settings: TrainingPrivacy,
        randomness: Randomness,
    ) -> None:
        exact = replace(backend, bfloat16=False, compile=False)
        super().__init__(architecture, sources, optimiser=optimiser, backend=exact, seed=seed, member=member)
        (self.source,) = sources
        self.settings, self.randomness = settings, randomness

    @property
    def samples(self) -> int:
        """Training patients, which is the number that is public; how many cases each has is not."""
        return self.patients

    def train(
        self,
        weights: Weights,
        moments: Moments,
        *,
        anchors: Anchors | None,
        round_number: int,
        steps: Sequence[int],  # noqa: ARG002  the number of patients must not decide it
        hook: StepHook | None = None,
    ) -> Trained:
        """Take the steps of a round that the plan's privacy settings name; `steps` has no meaning here."""
        started = time.perf_counter()
        self.load(weights)
        self.network.train()
        optimiser = self._noisy(moments, round_number)
        anchors = None if anchors is None else anchors.to(self.backend.device)
        for step in range(self.settings.steps):
            for patients in self._drawn():
                optimiser.accumulate(self._gradients(patients, anchors, round_number, step))
            optimiser.finish()
            if hook is not None:
                hook(step + 1, self.settings.steps, None)
        return Trained(
            weights={name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()},
            moments=self._moments(optimiser.original_optimizer),
            loss=None,
            steps=self.settings.steps,
            seconds=time.perf_counter() - started,
        )

    def _noisy(self, moments: Moments, round_number: int) -> NoisyOptimiser:
        from fedmepd.private_optimiser import NoisyOptimiser, check_network

        check_network(self.network)
        return NoisyOptimiser(
            self._optimiser(moments, round_number),
            noise=self.settings.noise,
            clip=self.settings.clip,
            expected=rate_of(self.settings, self.patients) * self.patients,
            randomness=self.randomness,
        )

    def _drawn(self) -> Iterator[Sequence[str]]:
        """Draw a step's patients, in groups whose crops are no more than a plain batch."""
        patients = sorted(set(self.source.patient_ids))
        chosen = self.randomness.chosen(len(patients), rate_of(self.settings, len(patients)))
        size = max(1, self.source.settings.batch // self.settings.crops)
        for start in range(0, len(chosen), size):
            yield [patients[index] for index in chosen[start : start + size]]

    def _gradients(
        self, patients: Sequence[str], anchors: Anchors | None, round_number: int, step: int
    ) -> list[Tensor]:
        """Return per trainable parameter the patients' gradients [patient, *shape], means over their crops."""
        crops = self.settings.crops
        batch = _joined([self.source.patient_crops(p, round_number, step, crops) for p in patients])
        if self.network.calibration is not None:
            seeds = [
                seed_of("patient dropout", self.seed, self.member, round_number, step, patient, position)
                for patient in patients
                for position in range(crops)
            ]
            self.network.calibration.seed_dropout(seeds, self.backend.device)
        found = sample_gradients(self.network, batch, anchors=anchors, backend=self.backend)
        return [gradient.unflatten(0, (len(patients), crops)).mean(dim=1) for gradient in found]


def sample_gradients(network: Network, batch: Batch, *, anchors: Anchors | None, backend: Backend) -> list[Tensor]:
    """Return per trainable parameter the gradients of each sample's own loss, [sample, *shape].

    Args:
        network: In training mode.
        batch: Samples.
        anchors: Anchors of the round, used where the member has LACCA.
        backend: Where to compute; not under autocast.
    """
    count = len(batch.label)
    copies = {
        name: parameter.detach().expand(count, *parameter.shape).requires_grad_()
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    }
    arguments = {
        "images": batch.images.to(backend.device),
        "label": batch.label.to(backend.device),
        "anchors": anchors,
        "given": batch.given,
        "backend": backend,
        "separate": True,
    }
    inside = {f"network.{name}": copy for name, copy in copies.items()}
    functional_call(_Backward(network), inside, kwargs=arguments)
    return [torch.zeros_like(copy) if copy.grad is None else copy.grad for copy in copies.values()]


class _Backward(nn.Module):
    """`backward` as a module, so that its network's parameters can be replaced for one call."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, **arguments: object) -> float:
        """Add the gradients to the parameters in place."""
        return backward(self.network, **arguments)  # type: ignore[arg-type]


def _joined(batches: Sequence[Batch]) -> Batch:
    return Batch(
        images=torch.cat([batch.images for batch in batches]),
        label=torch.cat([batch.label for batch in batches]),
        given=batches[0].given,
    )
