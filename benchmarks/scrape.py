"""Scraping a coordinator with a hundred sites in the middle of a round: how long it takes, and how many series it is.

    python -m benchmarks.scrape [--sites 100] [--scrapes 200] [--json FILE]

Coordinator and reader share a process; members, their run and what they have sent are put in place, not played. The
reader speaks HTTP over loopback, as Prometheus does, and every scrape finds the database's answer as it is between two
scrapes of a real Prometheus: read anew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path

from coordinator.policy import Policy
from coordinator.records import MemberRow, MemberState
from coordinator.server import Coordinator
from coordinator.state import CohortScores, Participant, Publication, RoundState, RunState, RunStatus, SiteStatus
from protos.terms import ArtefactRef, Phase, RoundId, VectorManifest
from tests.federation.hospital import MODALITIES, Hospital, IdleLead

RESULTS = Path(__file__).parent / "results" / "scrape.json"
GOALS = {"median_seconds": 0.05, "series": 2000}
_REF = ArtefactRef(sha256="0" * 64, size=1 << 20)
_REGIONS = ("whole", "core", "enhancing")


def put_in_place(made: Coordinator, count: int) -> None:
    """Give a coordinator so many sites, and a round of theirs that is at its uploads."""
    names, now = [f"site-{n:03d}" for n in range(count)], time.time()
    assert made.monitor is not None
    with made.monitor.health.things.store.transaction() as transaction:
        for name in names:
            transaction.put_member(_member(name, now))
    driver, counters = made.runs.driver, made.runs.counters
    driver._state = _run(names, now)  # noqa: SLF001  as if it had been played
    for name in names:
        driver.saw(name)
        counters.went(name, 1 << 20)
        counters.came(name, _REF, 1 << 20, grew=True)
        counters.whole(name, _REF)
        counters.came(name, _REF, 1 << 10, grew=True)
    for method in ("Next", "Report", "Upload", "Download", "UploadOffset"):
        for code in ("OK", "CANCELLED", "FAILED_PRECONDITION"):
            counters.called(f"/fedmepd.v1.Federation/{method}", code)


def _member(name: str, now: float) -> MemberRow:
    return MemberRow(
        role="site",
        member_id=name,
        modalities=MODALITIES,
        identity_public_key=bytes(32),
        state=MemberState.ENROLLED,
        software="benchmark",
        enrolled=now,
        serial=name.encode().hex().zfill(40),
        certificate_expires=now + 90 * 86400,
    )


def _run(names: list[str], now: float) -> RunState:
    manifest = VectorManifest(segments=(), vector=_REF)
    participants = tuple(
        Participant(site=name, modalities=MODALITIES, status=SiteStatus.MASKED, manifest=manifest, trained_s=60.0)
        for name in names
    )
    durations = {int(phase): 1.0 for phase in (Phase.PLANNED, Phase.TRAINING, Phase.ADVERTISE, Phase.SHARE)}
    current = RoundState(
        id=RoundId(run="run", round_number=7, attempt=1),
        phase=Phase.MASKED,
        began=now,
        phase_began=now,
        participants=participants,
        durations=durations,
    )
    dice = dict.fromkeys(_REGIONS, 0.8)
    published = Publication(
        round_number=6,
        segments={},
        anchors=None,
        start=None,
        layout=_REF,
        model=None,
        samples=1.0,
        scores=CohortScores(dice=dice, scored=len(names), loss=0.1, sites=len(names), lead_dice=dice, lead_loss=0.1),
    )
    return RunState(
        run="run",
        spec=_REF,
        sites=dict.fromkeys(names, MODALITIES),
        rounds=100,
        policy=Policy(),
        status=RunStatus.RUNNING,
        published=published,
        round=current,
        previous=tuple(names),
    )


def scrape(made: Coordinator) -> tuple[float, str]:
    """Return how long one scrape took, and what it brought."""
    assert made.monitor is not None
    made.monitor.forget()
    began = time.perf_counter()
    with urllib.request.urlopen(f"http://{made.metrics}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return time.perf_counter() - began, text


def series(text: str) -> int:
    """Return how many series a scrape brought."""
    return sum(1 for line in text.splitlines() if line and not line.startswith("#"))


async def measured(folder: Path, count: int, scrapes: int) -> dict[str, object]:
    """Scrape so many times."""
    hospital = Hospital(folder, {})
    hospital.found()
    async with hospital.serving(IdleLead(folder / "lead"), metrics=True) as made:
        await asyncio.to_thread(put_in_place, made, count)
        before = time.process_time()
        found = [await asyncio.to_thread(scrape, made) for _ in range(scrapes)]
        computed = (time.process_time() - before) / scrapes
    seconds, text = sorted(one for one, _ in found), found[-1][1]
    return {
        "sites": count,
        "scrapes": scrapes,
        "median_seconds": statistics.median(seconds),
        "p95_seconds": seconds[int(0.95 * len(seconds))],
        "cpu_seconds": computed,  # with the reader's and the event loop's: what is left on a machine with other work
        "series": series(text),
        "bytes": len(text),
        "goals": GOALS,
    }


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--scrapes", type=int, default=200)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        row = asyncio.run(measured(Path(name), arguments.sites, arguments.scrapes))
    print(json.dumps(row, indent=1))
    arguments.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
