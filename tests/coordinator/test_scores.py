"""How well the model does reaches the run's state from the lead's worker, and is there again after a restart."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import Config
from coordinator.events import Published, PublishLead, TrainLead
from coordinator.lead_parts import LeadParts
from coordinator.learner import LeadTrainer
from coordinator.ports import LeadFiles
from coordinator.state import CohortScores, Publication, dump_run, load_run
from tests.coordinator.runs_at_hand import fresh, publication, ref

SCORES = CohortScores(
    dice={"WT": 0.75, "TC": 0.5}, scored=3, loss=1.5, sites=4, lead_dice={"WT": 0.9, "TC": 0.8}, lead_loss=0.25
)
TOLD = {
    "cohort": {"dice": {"WT": 0.75, "TC": 0.5}, "scored": 3, "loss": 1.5, "sites": 4},
    "last_dice": {"WT": 0.9, "TC": 0.8},
    "loss": 0.25,
}
WORKER = """
import json, sys
from pathlib import Path
from fedmepd.worker import serve

def job(arguments, progress):
    out = Path(arguments["out_dir"])
    out.mkdir(parents=True)
    (out / "common").write_bytes(b"x")
    files = {"segments": {"common": {"path": str(out / "common")}}, "anchors": None, "start": None, "model": None}
    return {**files, "layout": {}, "samples": 0.0, **json.loads(sys.argv[1])}

serve({"start": job, "round": job})
"""


def parts_of(tmp_path: Path, told: dict[str, Any]) -> LeadFiles:
    """Let a worker that says this do a part."""
    data = {
        "coordinator": {"data": str(tmp_path)},
        "lead": {"cohort": "lead", "cache": "cache"},
    }
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"run_id": "run"}))

    async def part() -> LeadFiles:
        lead = LeadTrainer(Config.model_validate(data), (sys.executable, "-P", "-c", WORKER, json.dumps(told)))
        try:
            return await lead.part(spec, TrainLead(round_number=2, sum=None, contributors={}, sites=()), None)
        finally:
            await lead.close()

    return asyncio.run(part())


def test_what_the_worker_says_comes_with_its_files(tmp_path: Path) -> None:
    assert parts_of(tmp_path, TOLD).cohort == SCORES


@pytest.mark.parametrize(
    ("told", "scores"),
    [
        ({}, CohortScores()),
        ({"cohort": None, "loss": None, "last_dice": {}}, CohortScores()),
        ({"cohort": None, "loss": float("nan")}, CohortScores()),
        ({"cohort": {"dice": {}, "scored": 0, "loss": None, "sites": 4}}, CohortScores(sites=4)),
    ],
)
def test_what_is_not_known_is_left_out(tmp_path: Path, told: dict[str, Any], scores: CohortScores) -> None:
    assert parts_of(tmp_path, told).cohort == scores


class Shelf:
    """Artefacts that are only named."""

    def share(self, path: Path) -> object:
        return ref(path.name)

    def share_if(self, path: Path | None) -> object:
        return None if path is None else self.share(path)


def test_they_are_published_with_the_round() -> None:
    made = LeadFiles(
        segments={"common": Path("common")},
        anchors=None,
        start=None,
        layout=Path("layout"),
        model=None,
        samples=0.0,
        cohort=SCORES,
    )
    state = fresh()
    parts = LeadParts(keeper=None, files=Shelf(), spec_of=None, _made={(state.run, 3): made})  # type: ignore[arg-type]
    event = asyncio.run(parts.publish(state, None, PublishLead(round_number=3)))
    assert isinstance(event, Published)
    assert event.publication.scores == SCORES


def test_they_are_kept_with_the_run_and_a_state_of_before_has_none() -> None:
    kept = replace(fresh(), published=replace(publication(3), scores=SCORES))
    again = load_run(dump_run(kept))
    assert isinstance(again.published, Publication)
    assert again.published.scores == SCORES
    older = json.loads(dump_run(kept))
    del older["published"]["scores"]
    found = load_run(json.dumps(older)).published
    assert found is not None
    assert found.scores == CohortScores()
