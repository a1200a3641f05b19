"""Ledgers of a made-up consortium, as its programs write them: a server with noised anchors, a hospital with DP-SGD.

The server trains without noise, so its total is unbounded; the hospital's is not. The report that docs/privacy.md shows
is made by `python -m tests.security.privacy.report_scene FOLDER`, which writes ledgers and report.html.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from security.identity import Identity, Role
from security.privacy import independent
from security.privacy.ledger import Ledger
from security.privacy.report_making import Checks, make_report
from security.privacy.report_page import render
from security.privacy.terms import Budget, Claim, claim_key

CONSORTIUM = "brain.example"
RUN = "spring-2030"
BEGAN = datetime(2030, 3, 4, 8, 0, tzinfo=UTC)
ROUNDS = 8
SERVER_BUDGET, SITE_BUDGET = Budget(epsilon=8.0, delta=1e-5), Budget(epsilon=4.0, delta=1e-5)
# what accounting.epsilon gives for that many releases (Opacus PRV; loading it takes too long for a test)
ANCHORS_SPENT = (2.7534, 4.0893, 5.1749)
TRAINING_SPENT = (1.3119, 1.6277, 1.8797, 2.0983, 2.2952, 2.4765, 2.6456, 2.8051)
WHY = "the run trains the server without noise (privacy.server is not set)"


@dataclass
class Clock:
    """A clock that tests move."""

    now: datetime = BEGAN

    def __call__(self) -> datetime:
        return self.now

    def move(self, **duration: float) -> None:
        self.now += timedelta(**duration)


def key_of(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"key of {name}".encode()).digest())


def identity_of(name: str) -> Identity:
    role = Role.COORDINATOR if name == "coordinator" else Role.SITE
    return Identity(consortium=CONSORTIUM, role=role, id=name)


def opened(folder: Path, name: str, clock: Clock) -> Ledger:
    return Ledger.open(folder / name / "ledger.jsonl", identity_of(name), key_of(name), clock=clock)


def digest(*words: object) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()


def anchors(round_number: int, *, run: str = RUN, conditional: bool = True) -> Claim:
    return Claim(
        key=claim_key(run=run, round_number=round_number, mechanism="anchors", inputs=digest(run, round_number)),
        mechanism="anchors",
        run=run,
        round_number=round_number,
        noise=1.5,
        clip=1.0,
        rate=1.0,
        steps=1,
        patients=120,
        conditional=conditional,
        recipients="sites hospital-a, hospital-b, hospital-c, hospital-d",
    )


def training(round_number: int, *, run: str = RUN) -> Claim:
    return Claim(
        key=claim_key(run=run, round_number=round_number, mechanism="training", inputs=digest(run, round_number)),
        mechanism="training",
        run=run,
        round_number=round_number,
        noise=1.2,
        clip=1.0,
        rate=0.0625,
        steps=10,
        patients=64,
        conditional=False,
        recipients="the coordinator, in a sum over 4 sites at least",
    )


def charge(ledger: Ledger, claim: Claim, spent: float, *, released: bool = True) -> None:
    ledger.debit(claim, spent=spent, after=ledger.head().hash)
    if released:
        ledger.release(claim.key, digest(claim.key, "left"))


def make_ledgers(folder: Path) -> tuple[Path, Path]:
    """Play a run of eight rounds; return the ledgers of the coordinator and of hospital-a."""
    clock = Clock()
    with opened(folder, "coordinator", clock) as server, opened(folder, "hospital-a", clock) as site:
        server.set_budget(SERVER_BUDGET)
        clock.move(days=1)
        site.set_budget(SITE_BUDGET)
        clock.move(hours=2)
        server.unaccounted(RUN, "training", WHY)
        for number in range(ROUNDS + 1):
            clock.move(hours=7)
            if number in (0, 3, 6):
                charge(server, anchors(number), ANCHORS_SPENT[number // 3])
            if number:
                site.witness([server.head()])
                charge(site, training(number), TRAINING_SPENT[number - 1], released=number != 5)
                clock.move(minutes=40)
                server.witness([site.head()])
    return folder / "coordinator" / "ledger.jsonl", folder / "hospital-a" / "ledger.jsonl"


def make_example(folder: Path) -> Path:
    """Write ledgers and a report of them; return the report."""
    paths = make_ledgers(folder)
    checks = Checks(accountant=independent.epsilon, accountant_name="dp-accounting (privacy loss distributions)")
    names = {path: f"{path.parent.name}-2030-03.jsonl" for path in paths}
    made = make_report(paths, checks, made=BEGAN + timedelta(days=7), software="fedmepd-admin", names=names)
    page = folder / "report.html"
    page.write_text(render(made), encoding="utf-8")
    return page


if __name__ == "__main__":
    sys.stdout.write(f"{make_example(Path(sys.argv[1]))}\n")
