"""Opacus' optimiser with noise from an unpredictable source. Importing this loads Opacus, which takes seconds.

Opacus clips each patient's gradient over all parameters together, adds up and divides by the expected batch. Two things
are done here instead: the noise comes from `Randomness` in one draw per step, never from PyTorch's generators; and a
patient whose gradient is not finite adds nothing, so that no loss can poison the sum or stop the run.

Source: security/SPEC.md 15.4 to 15.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from fedmepd.noise import Randomness


class NoisyOptimiser(DPOptimizer):  # type: ignore[misc]  # Opacus carries no types
    """A `DPOptimizer` whose noise is unpredictable.

    Args:
        optimiser: What moves the weights, with the noised mean as gradient.
        noise: Noise multiplier z.
        clip: Largest L2 norm of a patient's gradient.
        expected: Patients that a step draws on average.
        randomness: Source of the noise.
    """

    def __init__(
        self, optimiser: torch.optim.Optimizer, *, noise: float, clip: float, expected: float, randomness: Randomness
    ) -> None:
        super().__init__(optimiser, noise_multiplier=noise, max_grad_norm=clip, expected_batch_size=expected)
        self._randomness = randomness

    def accumulate(self, gradients: Sequence[Tensor]) -> None:
        """Clip and add up the gradients of some patients of a step.

        Args:
            gradients: One per parameter of the optimiser, [patient, *shape of the parameter].
        """
        self._supply(_finite(gradients))
        self.signal_skip_step(do_skip=True)
        self.step()
        self.zero_grad(set_to_none=True)

    def finish(self) -> None:
        """Add the noise, divide by the expected batch, and move the weights; without patients by noise alone."""
        self._supply([p.new_zeros(0, *p.shape) for p in self.params])
        self.step()
        self.zero_grad(set_to_none=True)

    def add_noise(self) -> None:
        """Put the noised sum into the parameters' gradients."""
        parameters: list[Any] = self.params
        values = torch.from_numpy(self._randomness.normal(sum(p.numel() for p in parameters)))
        noise = values.to(parameters[0].device).mul_(self.noise_multiplier * self.max_grad_norm)
        for parameter, part in zip(parameters, noise.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(parameter.summed_grad).add_(part.view(parameter.shape))

    def _supply(self, gradients: Sequence[Tensor]) -> None:
        for parameter, gradient in zip(self.params, gradients, strict=True):
            parameter.grad_sample = gradient


def check_network(network: nn.Module) -> None:
    """Check that no layer mixes patients.

    Raises:
        UnsupportedModuleError: Naming the layer.
    """
    ModuleValidator.validate(network, strict=True)


def _finite(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Replace the gradients of patients by zeros where any value of theirs, or their sum, is not finite."""
    fine = torch.isfinite(torch.stack([g.flatten(1).sum(dim=1) for g in gradients]).sum(dim=0))
    if bool(fine.all()):
        return list(gradients)
    return [torch.where(fine.view(-1, *[1] * (g.dim() - 1)), g, 0.0) for g in gradients]
