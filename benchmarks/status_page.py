"""The status page of a large federation: how long a visitor waits, over TLS, for a page that was not read a moment ago.

    python -m benchmarks.status_page [--sites 100] [--rounds 1000] [--pages 40] [--json FILE]

The database holds every round with its details, and the model of each. Coordinator and visitor share this process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from protos.terms import Phase
from security.folders import IdentityFolder
from tests.coordinator import status_at_hand as hand
from tests.coordinator.runs_at_hand import Scene
from tests.coordinator.served import Served, served

RESULTS = Path(__file__).parent / "results" / "status_page.json"


def fill(fed: Served, sites: int, rounds: int) -> None:
    """Put a run of many rounds of many sites into the database, and let the coordinator be in the last of them."""
    state = hand.run_state(hand.round_in(Phase.TRAINING, sites, rounds), sites)
    fed.runs.scene = Scene(state=state)
    with fed.store.transaction() as transaction:
        transaction.put_run(hand.run_row(state))
        for old in range(30):
            row = hand.run_row(replace(state, run=f"run-{old}", status=hand.RunStatus.COMPLETED))
            transaction.put_run(replace(row, created=row.created - 1000.0 * (old + 1)))
        for member in hand.members(sites):
            transaction.put_member(member)
        for attempt in hand.attempts(state.run, rounds, sites):
            transaction.put_round(attempt)
        for model in hand.models(state.run, rounds, sites):
            transaction.put_model(model)


def timed(visitor: hand.Visitor, target: str) -> tuple[float, int]:
    """Return the seconds that a page takes, from connecting to its last byte, and its size."""
    began = time.perf_counter()
    reply = visitor.ask(target)
    if reply.status != 200:
        raise RuntimeError(f"{target}: {reply.status}")
    return time.perf_counter() - began, len(reply.text.encode())


def figures(times: list[float]) -> dict[str, float]:
    """Return median and worst, in milliseconds."""
    return {"median_ms": round(1000 * statistics.median(times), 1), "worst_ms": round(1000 * max(times), 1)}


def measure(folder: Path, sites: int, rounds: int, pages: int) -> dict[str, object]:
    """Measure the newest page, the oldest, and the same page again."""
    with served(folder) as fed:
        fill(fed, sites, rounds)
        alice, moments = IdentityFolder(folder / "alice").load(None), iter(range(1 << 20))
        fed.registry.clock = lambda: hand.NOW + 5.0 * next(moments)  # every page is read anew
        visitor = hand.Visitor(fed.page.address, fed.credentials.loaded.trust.root_pem, folder, alice)
        timed(visitor, "/")
        newest = [timed(visitor, "/") for _ in range(pages)]
        oldest = [timed(visitor, f"/?page={-(-rounds // 20)}") for _ in range(pages)]
        fed.registry.clock = lambda: hand.NOW
        again = [timed(visitor, "/") for _ in range(pages)]
    return {
        "sites": sites,
        "rounds": rounds,
        "pages": pages,
        "page_bytes": newest[0][1],
        "newest": figures([seconds for seconds, _ in newest]),
        "oldest": figures([seconds for seconds, _ in oldest]),
        "read_a_moment_ago": figures([seconds for seconds, _ in again]),
        "cores": len(os.sched_getaffinity(0)),
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--pages", type=int, default=40)
    parser.add_argument("--json", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), given.sites, given.rounds, given.pages)
    given.json.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
