"""A privacy ledger: appending durably against a bare synchronised write, verifying against bare signature checks.

    python -m benchmarks.ledger [--entries 100000] [--appends 300] [--json FILE]

Appends and bare writes of the same bytes take turns, on the disk of the working directory. The ledger that is verified
is of rounds: a debit, its release, and a witness entry with the heads of four others; all signatures are real. What
looking at every signature would take alone is measured on a sample. Both run on one core; time is the processor's, wall
time beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.processes import median, memory, note
from benchmarks.secagg import Timing, timed
from security.identity import Identity, Role
from security.keys import make_signing_key, public_bytes
from security.privacy.bodies import Charge, write_budgets, write_charge, write_heads, write_opening
from security.privacy.entries import Entry, seal, to_line
from security.privacy.exports import verify
from security.privacy.heads import Head, head_message
from security.privacy.ledger import Ledger
from security.privacy.terms import Budget, Claim, claim_key

RESULTS = Path(__file__).parent / "results" / "ledger.json"
OWNER = Identity(consortium="brain.example", role=Role.SITE, id="hospital-a")
OTHERS = ("hospital-b", "hospital-c", "hospital-d", "hospital-e")
BEGAN = datetime(2030, 1, 15, tzinfo=UTC)
BUDGET = Budget(epsilon=8.0, delta=1e-5)
_SAMPLE = 5_000
_GOALS = {"append_ms": 20.0, "verification_s": 10.0}


def claim(number: int) -> Claim:
    return Claim(
        key=claim_key(run="run", round_number=number, mechanism="training", inputs=str(number)),
        mechanism="training",
        run="run",
        round_number=number,
        noise=4.0,
        clip=1.0,
        rate=0.04,
        steps=25,
        patients=100,
        conditional=False,
        recipients="the coordinator, in a sum over 8 sites",
    )


def appending(folder: Path, count: int) -> dict[str, Any]:
    """Measure debits against bare writes of the same size."""
    ours, bare = [], []
    path = folder / "privacy" / "ledger.jsonl"
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger.open(path, OWNER, make_signing_key(), clock=lambda: datetime.now(UTC)))
        ledger.set_budget(BUDGET)
        handle = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        stack.callback(os.close, handle)
        for number in range(count):
            size = path.stat().st_size
            began = time.perf_counter()
            ledger.debit(claim(number), spent=number * 1e-3, after=ledger.head().hash)
            between = time.perf_counter()
            line = bytes(path.stat().st_size - size)
            again = time.perf_counter()
            os.write(handle, line)
            os.fsync(handle)
            ours.append(between - began)
            bare.append(time.perf_counter() - again)
    return {
        "append_ms": 1e3 * median(ours),
        "append_ms_worst": 1e3 * max(ours),
        "bare_write_and_fsync_ms": 1e3 * median(bare),
        "append_over_bare_write": median([one / other for one, other in zip(ours, bare, strict=True)]),
    }


def bodies(count: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield kinds and bodies of so many entries after the first."""
    keys = {other: make_signing_key() for other in OTHERS}
    yield "budget", write_budgets(BUDGET, None)
    for number in range(count // 3 + 1):
        made = claim(number)
        yield "debit", write_charge(Charge(claim=made, budget=BUDGET, spent=number * 1e-5))
        yield "release", {"key": made.key, "sha256": made.key}
        yield "witness", write_heads(head(other, key, number) for other, key in keys.items())


def head(other: str, key: Ed25519PrivateKey, number: int) -> Head:
    uri = Identity(consortium=OWNER.consortium, role=Role.SITE, id=other).uri
    digest = f"{number:064x}"
    signature = key.sign(head_message(OWNER.consortium, uri, number, digest))
    return Head(owner=uri, key=public_bytes(key), sequence=number, hash=digest, signature=signature)


def write_ledger(path: Path, count: int) -> None:
    key = make_signing_key()
    with path.open("w") as file:
        last: Entry | None = None
        said = bodies(count)
        for place in range(count):
            kind, body = next(said) if place else ("opened", write_opening(OWNER, public_bytes(key)))
            at = BEGAN + timedelta(seconds=place)
            last = seal(last, owner=OWNER, key=key, at=at, kind=kind, body=body)
            file.write(f"{to_line(last)}\n")


def signatures(count: int) -> Timing:
    """Return what bare checks of so many signatures take on one core, from a sample."""
    key = make_signing_key()
    public, message = key.public_key(), head_message(OWNER.consortium, OWNER.uri, 0, "0" * 64)
    signature = key.sign(message)

    def work() -> None:
        for _ in range(_SAMPLE):
            public.verify(signature, message)

    found = timed(work)
    return Timing(wall=found.wall / _SAMPLE * count, cpu=found.cpu / _SAMPLE * count)


def verifying(folder: Path, count: int, repeats: int) -> dict[str, Any]:
    """Measure the verification of one long ledger."""
    path = folder / "long.jsonl"
    write_ledger(path, count)
    pairs = [(timed(lambda: verify([path])), signatures(count)) for _ in range(repeats)]
    return {
        "entries": count,
        "megabytes": path.stat().st_size / 1e6,
        "verification_s": median([ours.wall for ours, _ in pairs]),
        "verification_cpu_s": median([ours.cpu for ours, _ in pairs]),
        "bare_signatures_cpu_s": median([bare.cpu for _, bare in pairs]),
        "verification_over_bare_signatures": median([ours.cpu / bare.cpu for ours, bare in pairs]),
        "peak_memory_megabytes": memory(os.getpid(), "VmHWM") / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--appends", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        row: dict[str, Any] = note() | appending(folder, arguments.appends)
        row |= verifying(folder, arguments.entries, arguments.repeats) | {"goals": _GOALS}
    print(json.dumps(row, indent=1))
    arguments.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
