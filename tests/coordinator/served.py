"""A coordinator made with its own commands and served on loopback from a thread, with a run that the test plays."""

# ruff: noqa: ARG002  a port's methods

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import structlog
from grpc import aio

from coordinator.admin import Admin
from coordinator.auth import Guard
from coordinator.blobs import open_blobs
from coordinator.cli import main as coordinator_main
from coordinator.cli.admin import main as admin_main
from coordinator.cli.admin.connection import connected
from coordinator.enrolment import Enrolment, Patience
from coordinator.errors import ConflictError, NotFoundError
from coordinator.ports import BlobStore, Store
from coordinator.records import ModelRow, RoundRow, RunRow
from coordinator.registry import Registry
from coordinator.starting import SegmentOutlook, Started
from coordinator.state import RunState, RunStatus, dump_round, dump_run
from coordinator.status_page import Contexts, Door, Reader, StatusPage
from coordinator.store import open_store
from coordinator.tls import ServerCredentials, require_tls_1_3
from protos.terms import Activity, ActivityKind, Phase
from protos.v1.admin_pb2_grpc import AdminStub, add_AdminServicer_to_server
from protos.v1.enrolment_pb2_grpc import add_EnrolmentServicer_to_server
from security import sealed
from security.folders import IdentityFolder, IssuerFolder
from tests.coordinator.runs_at_hand import Scene, started

CONSORTIUM = "brain.example"
ENVIRONMENT = {"FEDMEPD_CONSORTIUM_PASSPHRASE": "correct horse battery", "COLUMNS": "200"}


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


def command(main: Callable[[list[str]], None], *words: object, stdin: str = "") -> Said:
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        patch.dict("os.environ", ENVIRONMENT),
        patch("sys.stdin", io.StringIO(stdin)),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main([str(word) for word in words])
        except SystemExit as left:
            code = left.code
    return Said(code=int(code or 0), out=out.getvalue(), err=err.getvalue())


def coordinator(*words: object) -> Said:
    return command(coordinator_main, *words)


class PlayedRun:
    """Run control over a scene that the test plays."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store, self._clock = store, clock
        self.scene: Scene | None = None
        self.revocations: list[tuple[str, str]] = []
        self.version = 1
        self._news = threading.Condition()

    async def start(self, configuration_toml: str, *, actor: str) -> Started:
        if self.scene is not None:
            raise ConflictError("run run is running", remedy="wait")
        self.scene = started()
        self.scene.state = replace(self.scene.state, run=configuration_toml.strip() or "run")
        self.save()
        segments = (("common", 3, 0), ("modality/t2", 1, -1), ("modality/t1", 5, 2))
        return Started(
            run=self.scene.state.run,
            aggregation="plain",
            warnings=("it is plain",),
            segments=tuple(
                SegmentOutlook(segment=name, owners=owners, minimum=3, threshold=3, tolerated=tolerated)
                for name, owners, tolerated in segments
            ),
        )

    async def check(self, configuration_toml: str, *, actor: str) -> Started:
        if self.scene is not None:
            raise ConflictError("run run is running", remedy="wait")
        common = SegmentOutlook(segment="common", owners=3, minimum=3, threshold=3, tolerated=0)
        return Started(run="run", aggregation="secure", segments=(common,))

    async def control(
        self, run: str, action: Literal["pause", "resume", "abort"], *, reason: str, actor: str
    ) -> RunState:
        state = self.state(run)
        changes: dict[str, Any] = {"paused": action == "pause"}
        if action == "abort":
            changes = {"status": RunStatus.ABORTED, "reason": reason}
        assert self.scene is not None
        self.scene.state = replace(state, **changes)
        self.save()
        return self.scene.state

    async def revoked(self, site: str, reason: str) -> None:
        self.revocations.append((site, reason))

    def state(self, run: str | None) -> RunState:
        if self.scene is None or (run and run != self.scene.state.run):
            raise NotFoundError("there is no such run")
        return self.scene.state

    def site_activity(self, site: str) -> tuple[Activity | None, float]:
        return Activity(kind=ActivityKind.TRAINING, done=3, total=12), self._clock()

    def lead_activity(self) -> tuple[str, int, int]:
        return "training", 1, 4

    async def changed(self, after: int, timeout_s: float) -> int:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._wait, after, timeout_s)
        return self.version

    def _wait(self, after: int, timeout_s: float) -> None:
        with self._news:
            self._news.wait_for(lambda: self.version > after, timeout_s)

    def save(self) -> None:
        """Put the run into the database, as the driver does."""
        assert self.scene is not None
        state, now = self.scene.state, self._clock()
        with self._store.transaction() as transaction:
            transaction.put_run(
                RunRow(
                    run=state.run,
                    name="trial",
                    method="fedmepd",
                    created=now,
                    ended=now if state.status.terminal else None,
                    status=state.status.value,
                    configuration_toml="",
                    state=dump_run(state),
                )
            )
            if state.round is not None:
                over = state.round.phase is Phase.DONE
                transaction.put_round(
                    RoundRow(
                        round=replace(state.round.id, run=state.run),
                        phase=state.round.phase,
                        began=state.round.began,
                        ended=now if over else None,
                        reason=state.round.reason,
                        detail=dump_round(state.round),
                    )
                )
        with self._news:
            self.version += 1
            self._news.notify_all()


@dataclass
class Served:
    """A served federation."""

    folder: Path
    store: Store
    blobs: BlobStore
    registry: Registry
    runs: PlayedRun
    members: str
    newcomers: str
    patience: Patience
    page: StatusPage
    credentials: ServerCredentials
    calls: Counter[tuple[str, str]]

    def admin(self, *words: object, who: str = "alice", stdin: str = "") -> Said:
        if words and words[0] != "consortium":
            words = (*words, "--identity", self.folder / who)
        return command(admin_main, *words, stdin=stdin)

    def enrol(self, token: str, name: str, role: str = "admin", **other: str) -> Said:
        places = ("--coordinator", self.members, "--enrolment", other.get("newcomers", self.newcomers))
        return self.admin(
            "enroll", name, "--role", role, *places, "--token", "-", who=other.get("who", name), stdin=token
        )

    @contextmanager
    def stub(self, who: str = "alice") -> Iterator[AdminStub]:
        with connected(self.folder / who) as connection:
            yield connection.stub

    def put_model(self, number: int, content: bytes, *, kept: bool = True) -> None:
        ref = self.blobs.put_bytes(content)
        with self.store.transaction() as transaction:
            transaction.put_model(
                ModelRow(
                    run="run",
                    round_number=number,
                    model=ref,
                    created=self.registry.clock() + number,
                    contributors=("a", "b"),
                    missing=("c",),
                    kept=kept,
                )
            )


@contextmanager
def logs_apart() -> Iterator[None]:
    """Keep what threads log out of what commands print: by default both go to the standard output."""
    before = structlog.get_config()
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    try:
        yield
    finally:
        structlog.configure(**before)


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """Make a consortium and a coordinator by command, serve it, and enrol the admin alice by command."""
    require_tls_1_3()
    with logs_apart(), patch.object(sealed, "_LOG2_COST", 10):
        made = command(admin_main, "consortium", "init", folder / "consortium", "--name", CONSORTIUM)
        assert made.code == 0, made.err
        names = ("--name", "localhost,127.0.0.1")
        made = coordinator("init", "--data", folder / "data", "--consortium-dir", folder / "consortium", *names)
        assert made.code == 0, made.err
        with _serving(folder) as found:
            token = coordinator("token", "--data", folder / "data", "--role", "admin", "alice")
            assert token.code == 0, token.err
            enrolled = found.enrol(token.out, "alice")
            assert enrolled.code == 0, enrolled.err
            yield found


@contextmanager
def _serving(folder: Path) -> Iterator[Served]:
    credentials = ServerCredentials(IdentityFolder(folder / "data" / "identity"), None)
    store = open_store(f"sqlite:///{folder / 'data' / 'coordinator.db'}")
    registry = Registry(
        store, issuer=IssuerFolder(folder / "data" / "issuer").load(None), trust=credentials.loaded.trust
    )
    runs = PlayedRun(store, registry.clock)
    reader = Reader(store=store, runs=runs, registry=registry, custody=None)
    door = Door(registry.consortium, registry.is_revoked, store, registry.clock)
    page = StatusPage("127.0.0.1:0", contexts=Contexts(credentials, folder / "scratch"), door=door, reader=reader)
    made = Served(
        folder=folder,
        store=store,
        blobs=open_blobs(str(folder / "data" / "blobs"), folder / "scratch"),
        registry=registry,
        runs=runs,
        members="",
        newcomers="",
        patience=Patience(),
        page=page,
        credentials=credentials,
        calls=Counter(),
    )
    with closing(store), page, _ports(made):
        yield made


@contextmanager
def _ports(made: Served) -> Iterator[None]:
    """Open both ports in a loop and a thread of their own, for as long as the block lasts."""
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    def called(method: str, code: str) -> None:
        made.calls[method.rpartition("/")[2], code] += 1

    async def run() -> None:
        guard = Guard(made.registry.consortium, made.registry.is_revoked, called=called)
        members, newcomers = aio.server(interceptors=[guard]), aio.server(interceptors=[guard])
        ledger = made.folder / "data" / "privacy" / "ledger.jsonl"
        admin = Admin(
            registry=made.registry, runs=made.runs, store=made.store, blobs=made.blobs, ledger=ledger, page=made.page
        )
        add_AdminServicer_to_server(admin, members)
        add_EnrolmentServicer_to_server(Enrolment(made.registry, made.patience), newcomers)
        made.members = f"localhost:{members.add_secure_port('127.0.0.1:0', made.credentials.for_members())}"
        made.newcomers = f"127.0.0.1:{newcomers.add_secure_port('127.0.0.1:0', made.credentials.for_newcomers())}"
        await members.start()
        await newcomers.start()
        ready.set()
        await stop.wait()
        await members.stop(None)
        await newcomers.stop(None)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
