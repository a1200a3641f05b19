"""One run folder out of the folders of a run's members, for whoever may see all of them, such as the demo.

Each member's worker leaves its own part (`fedmepd.member_runs`); put together they are what a simulation of the run
leaves, and `fedmepd report` reads them as such.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmepd.durable import write_text
from fedmepd.errors import RunError
from fedmepd.evaluation import read_scores_csv, write_scores_csv
from fedmepd.runs import RunFolder

_SHARED = ("run_id", "name", "task", "rounds", "seed", "methods")


def assemble_run(parts: Sequence[Path], out: Path) -> RunFolder:
    """Put the members' run folders together.

    Args:
        parts: Run folders of the server and the sites, in this order.
        out: The run folder to write.

    Raises:
        RunError: If a part is missing or of another run.
    """
    facts = [RunFolder(part).facts() for part in parts]
    missing = [str(part) for part, fact in zip(parts, facts, strict=True) if not fact]
    if missing or not facts:
        raise RunError(f"{', '.join(missing) or 'nothing'} is no run folder of a member", remedy="finish the run first")
    for part, fact in zip(parts, facts, strict=True):
        if any(fact.get(key) != facts[0].get(key) for key in _SHARED):
            raise RunError(f"{parts[0]} and {part} are of different runs", remedy="give the folders of one run")
    run = RunFolder(out)
    for method in facts[0]["methods"]:
        _assemble_method([RunFolder(part).method(method) for part in parts], run.method(method))
    shutil.copyfile(parts[0] / "run.toml", out / "run.toml")
    run.write_facts(_merged(facts))
    return run


def _merged(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    members = [member for fact in facts for member in fact["members"]]
    return {
        **facts[0],
        "created": min(fact["created"] for fact in facts),
        "finished": max(fact["finished"] for fact in facts),
        "members": members,
    }


def _assemble_method(parts: Sequence[Path], folder: Path) -> None:
    for kind in ("models", "overlays"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for part in parts:
            for path in sorted((part / kind).glob("*")):
                shutil.copyfile(path, folder / kind / path.name)
    anchors = parts[0] / "anchors.safetensors"
    if anchors.is_file():
        shutil.copyfile(anchors, folder / anchors.name)
    lines = [line for part in parts for line in (part / "metrics.jsonl").read_text().splitlines()]
    lines.sort(key=lambda line: int(json.loads(line)["round"]))
    write_text(folder / "metrics.jsonl", "".join(line + "\n" for line in lines))
    write_scores_csv(folder / "scores.csv", [s for part in parts for s in read_scores_csv(part / "scores.csv")])
