"""The state of one member on disk, round by round: what survives a kill at any point. Torch-free.

    state-000003.safetensors   state after round 3, with facts (JSON) in its metadata; the rename that gives it its
                               name is what commits the round
    best-000002-1f0c.safetensors   the best model so far, named by a state's facts
    metrics.jsonl              the member's own records

The last two rounds are kept, so that a round can be done again, from the same state, until the next one is committed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fedmepd.durable import write_bytes
from fedmepd.errors import RunError

KEPT_ROUNDS = 2
_STATE = re.compile(r"state-(\d{6,})\.safetensors")


class RoundStore:
    """A member's state folder.

    Args:
        folder: The folder; made at the first commit.
        run_id: The run; states of another one are refused.
    """

    def __init__(self, folder: Path, *, run_id: str) -> None:
        self.folder, self.run_id = folder, run_id

    def rounds(self) -> list[int]:
        """Return the committed rounds, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (_STATE.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def base_of(self, round_number: int) -> int | None:
        """Return the committed round that a round starts from; None for a member without an earlier state.

        Raises:
            RunError: If only later rounds are there: the state is ahead of what is asked.
        """
        rounds = self.rounds()
        earlier = [number for number in rounds if number < round_number]
        if not earlier and any(number > round_number for number in rounds):
            raise RunError(
                f"the state in {self.folder} is of round {rounds[-1]}, round {round_number} is asked for",
                remedy="restore the coordinator's latest state, or move the folder away to start from the global model",
            )
        return earlier[-1] if earlier else None

    def state_path(self, round_number: int) -> Path:
        """Return the file of a round's state."""
        return self.folder / f"state-{round_number:06d}.safetensors"

    def best_path(self, round_number: int, key: str) -> Path:
        """Return the file of a best model: of a round, and of the inputs that it was trained on."""
        return self.folder / f"best-{round_number:06d}-{key[:16]}.safetensors"

    def facts(self, round_number: int) -> dict[str, Any]:
        """Return the facts that were committed with a round.

        Raises:
            RunError: If the file is damaged or of another run.
        """
        path = self.state_path(round_number)
        try:
            with safe_open(path, framework="np") as opened:
                facts = dict(json.loads((opened.metadata() or {})["facts"]))
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise damaged(path, error) from error
        if facts.get("run_id") != self.run_id:
            raise RunError(
                f"{self.folder} holds the state of run {facts.get('run_id')!r}, not {self.run_id!r}",
                remedy="give every run a state folder of its own",
            )
        return facts

    def done(self, round_number: int, key: str) -> dict[str, Any] | None:
        """Return the facts of a round if it was committed for the same inputs."""
        if round_number not in self.rounds():
            return None
        facts = self.facts(round_number)
        return facts if facts.get("key") == key else None

    def commit(self, round_number: int, state: bytes, best: tuple[Path, bytes] | None) -> None:
        """Write a round's state, which commits it, and forget rounds that nothing needs any more.

        Args:
            round_number: The round.
            state: Safetensors with `metadata_of` the facts.
            best: Path and content of a new best model, written beforehand.
        """
        if best is not None:
            write_bytes(*best)
        write_bytes(self.state_path(round_number), state)
        self._prune()

    def metadata_of(self, facts: Mapping[str, Any]) -> dict[str, str]:
        """Return the metadata of a state file for facts."""
        return {"facts": json.dumps({"run_id": self.run_id, **facts}, sort_keys=True)}

    def _prune(self) -> None:
        kept = self.rounds()[-KEPT_ROUNDS:]
        best = [self.facts(number).get("best") for number in kept]
        names = {self.state_path(number).name for number in kept}
        names |= {fact["file"] for fact in best if fact}
        for path in self.folder.iterdir():
            ours = path.name.startswith(("state-", "best-", ".state-", ".best-"))
            if ours and path.name not in names:
                path.unlink(missing_ok=True)


def damaged(path: Path, error: Exception) -> RunError:
    """Return the error for a state that cannot be read."""
    return RunError(
        f"the state {path} is damaged ({str(error)[:100]})",
        remedy="restore the folder from a backup, or move it away to start from the global model",
    )
