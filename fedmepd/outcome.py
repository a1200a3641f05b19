"""What a method's run leaves behind: test scores of every member's best model, model files, anchors and pictures.

The test cases are touched here and nowhere else, once, by the model that the validation cases chose.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.torch import save
from torch import Tensor

from fedmepd.anchors import Anchors
from fedmepd.checkpoints import MethodState
from fedmepd.cohorts import PreparedCase
from fedmepd.evaluation import CaseScore, write_scores_csv
from fedmepd.federation import FederationMember, settings_of
from fedmepd.models import Provenance, SiteModel, save_model
from fedmepd.plan import Plan
from fedmepd.scores import score_case
from fedmepd.simulate import Setup, model_of
from fedmepd.states import Best
from fedmepd.task import load_task
from fedmepd.training import Learner
from fedmepd.validation import label_of, predict_case


def finish_method(
    setup: Setup, state: MethodState, folder: Path, progress: Callable[[str, str], None]
) -> list[CaseScore]:
    """Score, save and picture every member's best model.

    Args:
        setup: Of the method.
        state: After its last round.
        folder: The method's folder.
        progress: Called with member and case before each test case.

    Returns:
        The scores of all test cases.
    """
    scores: list[CaseScore] = []
    for member in setup.federation.members:
        learner, _ = model_of(setup, state, member)
        hook = partial(progress, member.id)
        scores += finish_member(learner, member, state.best[member.id], setup.lead.spec.plan, folder, hook)
    if state.server.anchors is not None:
        save_anchors(folder / "anchors.safetensors", state.server.anchors)
    write_scores_csv(folder / "scores.csv", scores)  # last: it marks the method as finished
    return scores


def finish_member(
    learner: Learner,
    member: FederationMember,
    best: Best,
    plan: Plan,
    folder: Path,
    progress: Callable[[str], None],
) -> list[CaseScore]:
    """Score, save and picture one member's best model; writes its files under `models/` and `overlays/`.

    Args:
        learner: What it computes with.
        member: The member.
        best: Its best model.
        plan: Of the run.
        folder: The method's folder.
        progress: Called with each test case before it is segmented.

    Returns:
        The scores of its test cases.
    """
    scores: list[CaseScore] = []
    for index, case in enumerate(member.patients.test):
        progress(case.case_id)
        predicted = predict_case(learner, best.weights, best.anchors, case, plan.evaluation)
        scores += _score(plan, member, case, predicted)
        if index == 0:
            _save_overlay(folder / "overlays" / f"{member.id}.npz", case, predicted)
    save_member_model(plan, learner, best, member, folder / "models" / f"{member.id}.safetensors")
    return scores


def _score(plan: Plan, member: FederationMember, case: PreparedCase, predicted: Tensor) -> list[CaseScore]:
    task = load_task(plan.task)
    found = score_case(predicted, label_of(case), task, spacing=case.spacing, with_hd95=plan.evaluation.hd95)
    return [
        CaseScore(member=member.id, case=case.case_id, region=region, dice=score.dice, hd95=score.hd95)
        for region, score in found.items()
    ]


def save_member_model(plan: Plan, learner: Learner, best: Best, member: FederationMember, path: Path) -> None:
    """Write a member's model file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    model = SiteModel(
        architecture=learner.architecture,
        task=load_task(plan.task),
        settings=settings_of(plan),
        window=plan.evaluation.window or plan.training.crop,
        provenance=Provenance(
            run=plan.run.name,
            method=plan.method.name,
            member=member.id,
            round_number=best.round_number,
        ),
        weights={name: t for name, t in best.weights.items() if not name.startswith("auxiliary.")},
        anchors=best.anchors,
    )
    save_model(path, model)


def save_anchors(path: Path, anchors: Anchors) -> None:
    """Write the anchors as the report reads them."""
    tensors = {f"level{i}": level.contiguous() for i, level in enumerate(anchors.levels, start=1)}
    path.write_bytes(save(tensors | {"present": anchors.weights > 0}))


def _save_overlay(path: Path, case: PreparedCase, predicted: Tensor) -> None:
    """Keep the axial slice with most labelled voxels, anterior up and the patient's right on the left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    truth = label_of(case)
    level = int((truth > 0).sum(dim=(0, 1)).argmax())
    np.savez_compressed(
        path,
        image=np.stack([_upright(channel[:, :, level]) for channel in case.image]),
        truth=_upright(truth[:, :, level]),
        prediction=_upright(predicted[:, :, level]),
        case=case.case_id,
        modalities=",".join(case.modalities),
    )


def _upright(plane: Tensor) -> npt.NDArray[np.generic]:
    """Turn a [right, anterior] plane into rows and columns as radiologists look at them."""
    turned: npt.NDArray[np.generic] = np.ascontiguousarray(np.rot90(plane.cpu().numpy())[:, ::-1])
    return turned
