"""A private learner over cases in memory, for tests: one modality, width 4, crops of 16."""

from __future__ import annotations

import torch

from fedmepd.cohorts import PreparedCase
from fedmepd.cohorts.geometry import Geometry
from fedmepd.compute import Backend
from fedmepd.model import Architecture
from fedmepd.private_training import PrivateLearner
from fedmepd.sampling import CropSettings, CropSource
from fedmepd.sections import TrainingPrivacy
from fedmepd.training import OptimiserSettings
from tests.fedmepd.randomness import Repeatable

OWN = ("t1ce",)
PATIENTS = ("ann", "bob", "cy", "dee")
_EDGE = 20
_SHAPE = (_EDGE,) * 3
_AS_IT_IS = Geometry(
    shape=_SHAPE,
    affine=tuple(tuple(float(i == j) for j in range(4)) for i in range(4)),
    orientation=((0, 1), (1, 1), (2, 1)),
    grid_shape=_SHAPE,
    scale=(1.0,) * 3,
    offset=(0.0,) * 3,
    box=((0, _EDGE),) * 3,
)


class Silent(Repeatable):
    """Draws what it is told to, step by step, and adds no noise: what is released is the clipped sum itself."""

    def __init__(self, *drawn):
        super().__init__(scale=0.0)
        self.script, self.asked = list(drawn), []

    def chosen(self, count, rate):
        self.asked.append((count, rate))
        return self.script.pop(0)


def case(name, patient=None, *, scale=1.0):
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    label = torch.zeros(_SHAPE, dtype=torch.uint8)
    label[5:14, 5:14, 5:14] = 1
    label[8:12, 8:12, 8:12] = 3
    return PreparedCase(
        case_id=name,
        patient_id=patient or name,
        modalities=OWN,
        image=scale * (torch.randn(1, *_SHAPE, generator=generator) + label),
        brain=torch.ones(_SHAPE, dtype=torch.bool),
        label=label,
        spacing=(1.0, 1.0, 1.0),
        geometry=_AS_IT_IS,
    )


def source(cases=None, *, batch=2):
    cases = [case(patient) for patient in PATIENTS] if cases is None else cases
    settings = CropSettings(edge=16, batch=batch, foreground_share=0.5, augment=True)
    return CropSource(cases, settings, seed=3, member="site", given=OWN)


def learner(randomness, cases=None, *, batch=2, optimiser="adamw", calibration=None, **privacy):
    """Return a learner; `batch` is how many crops are in a pass, `privacy` changes the plan's settings."""
    settings = TrainingPrivacy(**({"noise": 1.0, "clip": 1.0, "batch": 2, "steps": 1} | privacy))
    return PrivateLearner(
        Architecture(modalities=("flair", "t1ce"), own=OWN, classes=4, width=4, calibration=calibration),
        [source(cases, batch=batch)],
        optimiser=OptimiserSettings(name=optimiser, learning_rate=1e-3, weight_decay=0.0, rounds=10),
        backend=Backend(device=torch.device("cpu"), bfloat16=False, compile=False),
        seed=3,
        member="site",
        settings=settings,
        randomness=randomness,
    )


def train(one, weights=None, moments=None, *, anchors=None, round_number=1):
    weights = one.initial() if weights is None else weights
    return one.train(weights, moments or {}, anchors=anchors, round_number=round_number, steps=[99])
