"""What a training worker leaves at the end of a run: its member's part of a run folder.

The folder is laid out as one of `fedmepd simulate`, with one member in it: run.json, and under methods/<method> its
metrics, test scores, model, overlay and, at the server, the anchors. `fedmepd report` reads it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import nn

from fedmepd import __version__
from fedmepd.anchors import Anchors
from fedmepd.durable import write_bytes, write_text
from fedmepd.errors import RunError
from fedmepd.evaluation import CaseScore, write_scores_csv
from fedmepd.facts import describe_member, parameters_of
from fedmepd.federation import FederationMember
from fedmepd.jobs import Finish
from fedmepd.member_states import load_best
from fedmepd.outcome import finish_member, save_anchors
from fedmepd.participants import LeadParticipant, SiteParticipant
from fedmepd.plan import dump_plan
from fedmepd.round_store import RoundStore
from fedmepd.runs import RunFolder
from fedmepd.runspec import RunSpec
from fedmepd.sections import Privacy
from fedmepd.worker import Progress


def finish_run(
    job: Finish, participant: SiteParticipant | LeadParticipant, anchors: Anchors | None, progress: Progress
) -> dict[str, Any]:
    """Score, save and picture a member's best model; done again, it writes the same but for times.

    Args:
        job: The job.
        participant: The member at work.
        anchors: The server's anchors, for the report; None for a site.
        progress: Hook of the worker.

    Raises:
        RunError: If the member has no best model yet.
    """
    spec, member = participant.spec, participant.member
    store = RoundStore(job.state_dir, run_id=spec.run_id)
    rounds = store.rounds()
    best = load_best(store, store.facts(rounds[-1])) if rounds else None
    if best is None:
        raise RunError(f"{job.state_dir} holds no model of {member.id!r} yet", remedy="finish a round first")
    run = RunFolder(job.run_dir)
    folder = run.method(spec.method.name)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "metrics.jsonl", (job.state_dir / "metrics.jsonl").read_bytes())
    scores = finish_member(
        participant.learner, member, best, spec.plan, folder, lambda case: progress(phase="testing", case=case)
    )
    if anchors is not None:
        save_anchors(folder / "anchors.safetensors", anchors)
    write_text(run.path / "run.toml", tomli_w.dumps(dump_plan(spec.plan)))
    run.write_facts(_facts(spec, member, participant.learner.network, job.opening.cache))
    write_scores_csv(folder / "scores.csv", scores)  # last: it marks the run as finished
    return {
        "round": rounds[-1],
        "best_round": best.round_number,
        "model": str(folder / "models" / f"{member.id}.safetensors"),
        "scores": [_row(score) for score in scores],
        "run_dir": str(job.run_dir),
    }


def _facts(spec: RunSpec, member: FederationMember, network: nn.Module, cache: Path) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    plan = spec.plan
    return {
        "schema": 1,
        "name": plan.run.name,
        "run_id": spec.run_id,
        "created": now,
        "finished": now,
        "seconds": None,
        "task": spec.load_task().to_dict(),
        "rounds": plan.run.rounds,
        "seed": plan.run.seed,
        "preset": plan.run.preset,
        "methods": [spec.method.name],
        "members": [describe_member(member, cache)],
        "network": {"width": plan.width, "crop": plan.training.crop, "parameters": parameters_of(network)},
        "privacy": "none" if plan.privacy == Privacy() else "what the member's ledger of privacy budgets says",
        "software": {"fedmepd": __version__, "torch": torch.__version__},
    }


def _row(score: CaseScore) -> dict[str, Any]:
    hd95 = score.hd95 if score.hd95 == score.hd95 else None
    return {"case": score.case, "region": score.region, "dice": score.dice, "hd95": hd95}
