"""Applying a member's model to whole prepared cases: validation during training, predictions at its end."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from fedmepd.anchors import Anchors
from fedmepd.cohorts import PreparedCase
from fedmepd.errors import CohortError
from fedmepd.federation import FederationMember
from fedmepd.inference import predict_labels
from fedmepd.scores import dice_per_region
from fedmepd.sections import Evaluation
from fedmepd.task import Task
from fedmepd.training import Learner


def predict_case(
    learner: Learner, weights: Mapping[str, Tensor], anchors: Anchors | None, case: PreparedCase, evaluation: Evaluation
) -> Tensor:
    """Segment a prepared case with given weights.

    Returns:
        Class indices on the prepared grid, uint8 [d, h, w].
    """
    learner.load(weights)
    return predict_labels(
        learner.network,
        anchors,
        case.image,
        case.brain,
        given=case.modalities,
        window=evaluation.window or learner.sources[0].settings.edge,
        overlap=evaluation.overlap,
        backend=learner.backend,
    )


def validate(
    learner: Learner,
    weights: Mapping[str, Tensor],
    anchors: Anchors | None,
    member: FederationMember,
    task: Task,
    evaluation: Evaluation,
) -> dict[str, float]:
    """Return the mean Dice per region over a member's validation cases."""
    scores = [
        dice_per_region(predict_case(learner, weights, anchors, case, evaluation), label_of(case), task)
        for case in member.patients.validate
    ]
    return {region.name: float(np.mean([score[region.name] for score in scores])) for region in task.regions}


def label_of(case: PreparedCase) -> Tensor:
    """Return a case's expert label.

    Raises:
        CohortError: If it has none.
    """
    if case.label is None:
        raise CohortError(f"case {case.case_id!r} has no label to score against")
    return case.label
