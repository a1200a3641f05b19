"""A budget's keeper with a real ledger, a made-up lead and a store in memory."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.budgets import Custody, Keeper, Witness
from coordinator.budgets.keeper import Charged
from coordinator.budgets.notes import Notes
from coordinator.events import TrainLead
from coordinator.ports import History, LeadFiles
from fedmepd.plan import parse_plan
from fedmepd.runspec import RunSpec, make_spec
from protos.terms import ArtefactRef, LedgerHead
from security.identity import Identity, Role
from security.keys import public_bytes
from security.privacy.accounting import epsilon
from security.privacy.entries import Entry
from security.privacy.heads import head_message
from security.privacy.terms import Budget, Event
from tests.coordinator.memory_store import MemoryStore

CONSORTIUM = "brain.example"
COORDINATOR = Identity(consortium=CONSORTIUM, role=Role.COORDINATOR, id="lead")
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SPEC_SHA256 = "5" * 64
PATIENTS = 40
T = TypeVar("T")


def spec(*, rounds: int = 4, run: str = "trial", **privacy: dict[str, Any]) -> RunSpec:
    """Return a run of three sites; anchors are single ones where they are private."""
    data: dict[str, Any] = {"run": {"name": run, "rounds": rounds, "methods": ["fedmepd"]}, "privacy": privacy}
    if "anchors" in privacy:
        data["anchors"] = {"clusters": 1}
    plan = parse_plan(data, source="test")
    return make_spec(plan, run_id=run, sites={"a": ("flair", "t1"), "b": ("t1ce", "t2"), "c": ("flair",)})


def anchors(noise: float = 10.0, releases: int = 3, **run: Any) -> RunSpec:
    """Return a run that releases private anchors; three times, it comes to epsilon 0.7 at delta 1e-5."""
    return spec(anchors={"noise": noise, "releases": releases}, **run)


def training(noise: float = 20.0, **run: Any) -> RunSpec:
    """Return a run whose server trains privately too; all patients take part in each step."""
    server = {"noise": noise, "batch": PATIENTS, "steps": 2}
    return spec(anchors={"noise": noise, "releases": 1}, server=server, **run)


def part(number: int = 0, total: str | None = None) -> TrainLead:
    """Return the lead's part of a round; `total` tells sums apart."""
    found = None if total is None else ArtefactRef(sha256=total * 64, size=4)
    sites = () if total is None else ("a", "b")
    return TrainLead(round_number=number, sum=found, contributors={} if total is None else {"common": 2}, sites=sites)


@dataclass
class PrivateLead:
    """A lead that knows its patients and reckons at once, in this process."""

    folder: Path
    patients_known: int = PATIENTS
    asked: list[History] = field(default_factory=list)
    ready: asyncio.Event | None = None
    before_answer: Callable[[], None] = lambda: None

    async def patients(self, spec: Path) -> int:
        assert json.loads(await asyncio.to_thread(spec.read_text))["run_id"]
        if self.ready is not None:
            await self.ready.wait()
        return self.patients_known

    async def account(self, histories: Sequence[History], delta: float) -> tuple[float, ...]:
        self.asked += histories
        found = tuple(
            epsilon([Event(noise=noise, rate=rate, steps=steps) for noise, rate, steps in history], delta)
            for history in histories
        )
        await asyncio.sleep(0)  # a worker's answer comes later
        self.before_answer()
        return found

    def made(self, charged: Charged, content: bytes = b"noised", *, weights: str = "7" * 64) -> LeadFiles:
        """Do a part: release what it may."""
        path = self.folder / "anchors.safetensors"
        released = {}
        if charged.part.release:
            path.write_bytes(content)
            released["anchors"] = hashlib.sha256(content).hexdigest()
        if "training" in charged.claims:
            released["training"] = weights
        return LeadFiles(segments={}, anchors=path, start=None, layout=path, model=None, samples=0.0, released=released)


@dataclass
class Office:
    """A coordinator's office for budgets, which can be closed and opened again on the same folder."""

    folder: Path
    budget: Budget | None = field(default_factory=lambda: Budget(epsilon=1.0, delta=1e-5))
    patience_s: float = 20.0
    now: float = 1_800_000_000.0

    def __post_init__(self) -> None:
        self.lead = PrivateLead(self.folder)
        self.store = MemoryStore()
        self.open()

    @property
    def path(self) -> Path:
        return self.folder / "privacy" / "ledger.jsonl"

    def open(self) -> None:
        """Open what a coordinator opens when it starts."""
        notes = Notes(store=self.store, clock=self.clock)  # type: ignore[arg-type]
        self.custody = Custody(
            self.path, identity=COORDINATOR, key=KEY, budget=self.budget, notes=notes, clock=self.clock
        )
        self.custody.open()
        self.keeper = Keeper(self.custody, self.lead, notes, patience_s=self.patience_s)  # type: ignore[arg-type]
        self.witness = Witness(self.custody, notes, lambda: None)

    def again(self, budget: Budget | None = None) -> None:
        """Restart, with another budget if one is given."""
        self.custody.close()
        self.budget = budget or self.budget
        self.open()

    def clock(self) -> float:
        self.now += 1.0
        return self.now

    def spec_path(self, run: RunSpec) -> Path:
        path = self.folder / f"{run.run_id}.json"
        path.write_text(json.dumps(run.to_dict()))
        return path

    async def start(self, run: RunSpec) -> tuple[str, ...]:
        return await self.keeper.check_start(run, self.spec_path(run), actor="spiffe://brain.example/operator/o")

    async def before(self, run: RunSpec, what: TrainLead) -> Charged:
        return await self.keeper.before(run, self.spec_path(run), SPEC_SHA256, what)

    async def play(
        self, run: RunSpec, what: TrainLead, content: bytes = b"noised", published: str | None = None
    ) -> None:
        """Do a part of the lead, from its debit to its release."""
        charged = await self.before(run, what)
        await self.keeper.after(run, charged, self.lead.made(charged, content), published)

    def entries(self, *kinds: str) -> list[Entry]:
        found = [] if not self.path.exists() else list(self.custody._opened().entries())
        return [entry for entry in found if entry.kind in kinds]

    def actions(self) -> list[str]:
        """Return what is on record after the ledger was begun."""
        return [row.action for row in self.store.content.audit if row.action != "privacy.begun"]

    def without_budget(self) -> None:
        """Restart with a configuration that has no budget."""
        self.custody.close()
        self.budget = None
        self.open()

    def close(self) -> None:
        self.custody.close()


def head_of(site: str, sequence: int, digest: str = "ab", *, key: Ed25519PrivateKey | None = None) -> LedgerHead:
    """Return a signed head of a site's ledger."""
    key = key or Ed25519PrivateKey.from_private_bytes(hashlib.sha256(site.encode()).digest())
    owner = Identity(consortium=CONSORTIUM, role=Role.SITE, id=site).uri
    hash_ = digest * 32
    message = head_message(CONSORTIUM, owner, sequence, hash_)
    return LedgerHead(owner=owner, key=public_bytes(key), sequence=sequence, hash=hash_, signature=key.sign(message))


def play(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 20))
