"""What is forgotten, when, and that nothing goes that the present or a coming round needs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from coordinator import admin_runs, retention
from coordinator import events as ev
from coordinator.keeping import keep
from coordinator.local_blobs import LocalBlobs
from coordinator.ports import Store
from coordinator.pruning import Pruner
from coordinator.records import RoundRow, RunRow, TokenRow, TokenState
from coordinator.retention import DAY_S, UPLOAD_S, Limits, forgettable, needed
from coordinator.session import Stage, stage
from coordinator.spool import Spool
from coordinator.state import RunState, RunStatus, dump_round, dump_run, load_round
from coordinator.store import open_store
from coordinator.views import round_row_view
from protos.terms import ArtefactRef, Phase, RoundId
from tests.coordinator.memory_store import MemoryStore
from tests.coordinator.runs_at_hand import POLICY, SITES, Scene, fresh, manifest, publication, ref
from tests.coordinator.served import served

ROW = RunRow(
    run="run", name="A run", method="fedmepd", created=1.0, ended=None, status="", configuration_toml="", state=""
)
MOST_ROUNDS = 8


@dataclass
class Shelf:
    """Artefacts by name only."""

    there: set[ArtefactRef] = field(default_factory=set)

    def remove(self, ref: ArtefactRef) -> None:
        self.there.discard(ref)

    def refs(self) -> Iterator[ArtefactRef]:
        return iter(sorted(self.there, key=lambda ref: ref.sha256))


class History:
    """A run whose every event is kept and performed as the coordinator does it, blobs and retention included."""

    def __init__(self, scratch: Path, kept_rounds: int) -> None:
        policy = POLICY.model_copy(update={"keep_models": 2, "keep_every": 4, "failed_rounds": 3})
        self.scene = Scene(state=fresh(MOST_ROUNDS, policy)).begin()
        self.store, self.shelf = MemoryStore(), Shelf()
        self.limits = Limits(rounds=kept_rounds, days=30.0)
        self.row, self.version, self.orphans = ROW, 0, 0
        self.scratch, self.held = scratch, False
        self.waiting: list[tuple[ev.RoundEnded, RunState]] = []
        self.pruner = self.opened()
        self.put(self.scene.state.spec)
        self.give(self.scene.state, [])
        self.publish()

    def opened(self) -> Pruner:
        return Pruner(
            store=self.store,  # type: ignore[arg-type]
            blobs=self.shelf,  # type: ignore[arg-type]
            scratch=self.scratch,
            uploads=None,
            limits=self.limits,
            clock=lambda: self.scene.now,
            sweep_s=50.0,
        )

    def put(self, *refs: ArtefactRef | None) -> None:
        self.shelf.there |= {ref for ref in refs if ref is not None}

    def tell(self, event: ev.Event) -> None:
        outcome = self.scene.tell(event)
        self.give(outcome.state, list(outcome.effects))

    def give(self, state: RunState, effects: list[ev.Effect]) -> None:
        with self.store.transaction() as transaction:
            self.row = keep(transaction, self.row, state, effects, {}, self.scene.now)  # type: ignore[arg-type]
        for effect in effects:
            if isinstance(effect, ev.RoundEnded):
                self.waiting.append((effect, state))
        if not self.held:
            self.tidy()

    def tidy(self) -> None:
        """Clear up after rounds, which goes on beside the next one."""
        while self.waiting:
            self.pruner.after_round(*self.waiting.pop(0), lambda: self.scene.state)

    # -- what may happen ---------------------------------------------------------------------------------------------

    def happen(self, what: str) -> None:  # noqa: C901, PLR0912  one row per thing that may happen
        """Let something happen, if it can now."""
        self.scene.now += 7.0
        if self.scene.state.status.terminal:
            return
        match what, stage(self.scene.state):
            case "restart", _:
                self.shelf.there |= {ref(f"orphan{self.orphans}")}
                self.orphans += 1
                self.pruner = self.opened()
                self.waiting.clear()
                self.pruner.start()
                assert ref(f"orphan{self.orphans - 1}") not in self.shelf.there
            case "hold", _:
                self.held = not self.held
                self.tidy()
            case "orphan", _:
                self.put(ref(f"orphan{self.orphans}"))
                self.orphans += 1
            case "pause" | "resume", _:
                self.tell(ev.Paused() if what == "pause" else ev.Resumed())
            case "abort", here if here is not Stage.STARTING and self.scene.id.round_number == MOST_ROUNDS:
                self.tell(ev.Aborted(reason="enough"))
            case "new version", Stage.TRAINING:
                self.version += 1
            case "go on" | "decline", Stage.TRAINING:
                self.train(declining=what == "decline")
            case "go on" | "one", Stage.MASKED:
                self.submit(1 if what == "one" else len(SITES))
            case "go on", Stage.AGGREGATING:
                self.add_up()
            case "fail", Stage.AGGREGATING:
                self.tell(ev.SumFailed(round=self.scene.id, reason="made up"))
            case "go on" | "fail", Stage.SERVER_TRAINING | Stage.PUBLISHING if what == "go on" or self.lead_may_fail():
                self.publish(failing=what == "fail")
            case "go on", Stage.PLANNED:
                self.tell(ev.Resumed())
            case "late", Stage.TRAINING | Stage.MASKED:
                self.scene.now += 2 * POLICY.first_deadline_s
                self.tell(ev.Tick(seen={}, progress={}, since=0.0))

    def lead_may_fail(self) -> bool:
        return self.scene.state.published is not None

    def train(self, *, declining: bool) -> None:
        for index, site in enumerate(SITES):
            if declining and index == 0:
                self.tell(ev.SiteDeclined(site=site, round=self.scene.id, reason="no"))
            else:
                found = manifest(site, str(self.version))
                self.tell(ev.SiteAccepted(site=site, round=self.scene.id))
                self.tell(ev.SiteTrained(site=site, round=self.scene.id, manifest=found, seconds=1.0))

    def submit(self, count: int) -> None:
        current = self.scene.state.round
        assert current is not None
        for each in current.participants[:count]:
            if each.manifest is not None and not each.status.out:
                self.put(each.manifest.vector)
                with self.store.transaction() as transaction:
                    transaction.put_input(current.id, each.site, each.manifest.vector)
                self.tell(ev.SiteSubmitted(site=each.site, round=current.id, vector=each.manifest.vector))

    def add_up(self) -> None:
        current = self.scene.state.round
        assert current is not None
        sites = tuple(p.site for p in current.participants if p.status.value == "submitted")
        total = ref(f"s{current.id.round_number}-{current.id.attempt}")
        self.put(total)
        self.tell(ev.Summed(round=current.id, sum=total, contributors={"common": len(sites)}, sites=sites))

    def publish(self, *, failing: bool = False) -> None:
        state = self.scene.state
        number = 0 if state.round is None else state.round.id.round_number
        if failing:
            self.tell(ev.LeadFailed(round_number=number, reason="made up"))
            return
        if stage(state) is not Stage.PUBLISHING:
            self.tell(ev.LeadTrained(round_number=number))
        made = publication(number)
        self.put(*made.artefacts)
        self.tell(ev.Published(publication=made))

    # -- what must hold ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        state, content = self.scene.state, self.store.content
        current = state.round
        whole = {} if current is None else content.inputs.get(current.id, {})
        wanted = needed(state, content.models.values(), whole.values())
        announced = set() if current is None else {p.manifest.vector for p in current.participants if p.manifest}
        assert wanted - self.shelf.there <= announced - set(whole.values()), "all but what is still to be uploaded"
        newest = sorted({row.round.round_number for row in content.rounds.values()})[-self.limits.rounds - 1 :]
        for row in content.rounds.values():
            if row.round.round_number in newest[1:] or row.ended is None:
                assert load_round(row.detail).id == row.round
        kept = [model for model in content.models.values() if model.kept]
        assert {model.model for model in kept} <= self.shelf.there


@given(
    kept_rounds=st.integers(1, 3),
    happens=st.lists(
        st.sampled_from(
            ["go on"] * 12
            + ["one", "decline", "late", "fail", "new version", "pause", "resume", "orphan", "restart", "abort"]
            + ["hold"] * 3
        ),
        max_size=60,
    ),
)
@example(kept_rounds=1, happens=["hold", "go on", "go on", "fail", "go on", "go on", "hold", *["go on"] * 3])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_nothing_needed_is_removed(tmp_path: Path, kept_rounds: int, happens: list[str]) -> None:
    history = History(tmp_path, kept_rounds)
    history.check()
    for what in happens:
        history.happen(what)
        history.check()


def test_a_long_run_keeps_details_of_its_latest_rounds_only(tmp_path: Path) -> None:
    history = History(tmp_path, 2)
    for _ in range(MOST_ROUNDS * 8):
        history.happen("go on")
        history.check()
    rows = [history.store.content.rounds[key] for key in sorted(history.store.content.rounds, key=str)]
    assert history.scene.state.status is RunStatus.COMPLETED
    assert [row.pruned for row in rows] == [True] * (MOST_ROUNDS - 2) + [False] * 2
    assert {row.phase for row in rows} == {Phase.DONE}
    assert [model.round_number for model in history.store.content.models.values() if model.kept] == [4, 7, 8]
    assert len(history.store.content.models) == MOST_ROUNDS, "who contributed to which model stays for ever"
    assert len(history.shelf.there) == len(needed(history.scene.state, history.store.content.models.values(), ()))


def test_orphans_are_removed_while_the_coordinator_runs_once_they_were_seen_twice(tmp_path: Path) -> None:
    history = History(tmp_path, 2)
    history.happen("orphan")
    seen = []
    for _ in range(MOST_ROUNDS * 5):
        history.happen("go on")
        history.check()
        seen.append(ref("orphan0") in history.shelf.there)
    assert seen[0]
    assert not seen[-1]


def test_a_model_that_another_kept_version_is_too_keeps_its_file(tmp_path: Path) -> None:
    history = History(tmp_path, 2)
    while history.scene.id.round_number < 4:
        history.happen("go on")
    models = history.store.content.models
    same = replace(models["run", 3], run="before", promoted=1.0)
    with history.store.transaction() as transaction:
        transaction.put_model(same)
    while history.scene.id.round_number < 7:
        history.happen("go on")
    assert not history.store.content.models["run", 3].kept
    assert same.model in history.shelf.there
    history.check()


def test_a_sweep_that_cannot_be_made_is_made_at_the_next_moment(tmp_path: Path) -> None:
    history = History(tmp_path, 2)
    calm = history.scene.state
    while retention.quiet(history.scene.state):
        history.happen("go on")
    busy, orphan, pruner = history.scene.state, ref("orphan"), history.opened()
    history.put(orphan)
    history.scene.now += 50.0
    pruner.when_due(lambda: calm)  # seen for the first time
    history.scene.now += 50.0
    pruner.when_due(lambda: busy)
    assert orphan in history.shelf.there
    history.scene.now += 1.0
    pruner.when_due(lambda: calm)
    assert orphan not in history.shelf.there


def test_the_last_finished_round_keeps_its_details_while_the_next_one_goes_on(tmp_path: Path) -> None:
    history = History(tmp_path, 1)
    while history.scene.id.round_number < 3:
        history.happen("go on")
    assert forgettable(history.scene.state, history.limits) == 1
    assert [row.pruned for row in history.store.content.rounds.values()] == [True, False, False]


def test_what_is_pruned_is_seen_in_outline() -> None:
    scene = Scene().begin()
    scene.publish(0)
    row = RoundRow(round=scene.id, phase=Phase.FAILED, began=1.0, ended=3.0, reason="quorum", detail="")
    view = round_row_view(row)
    assert (view.round, view.attempt, view.reason, view.ended, view.pruned) == (1, 1, "quorum", 3.0, True)
    assert not view.participants


def test_rounds_are_listed_page_by_page_and_pruned_ones_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_runs, "_MOST_ROUNDS", 3)
    scene = Scene().begin()
    scene.publish(0)
    assert scene.state.round is not None
    with served(tmp_path) as federation:
        with federation.store.transaction() as transaction:
            transaction.put_run(replace(ROW, state=dump_run(scene.state)))
            for number, attempt in ((1, 1), (2, 1), (2, 2), (3, 1), (4, 1), (5, 1), (6, 1)):
                current = replace(scene.state.round, id=RoundId(run="run", round_number=number, attempt=attempt))
                detail = "" if number < 4 else dump_round(current)
                row = RoundRow(round=current.id, phase=Phase.DONE, began=1.0, ended=2.0, reason="", detail=detail)
                transaction.put_round(row)
        found = json.loads(federation.admin("rounds", "list", "run", "--json").out)
        ids = [(one["round"], one["attempt"]) for one in found]
        assert ids == [(1, 1), (2, 1), (2, 2), (3, 1), (4, 1), (5, 1), (6, 1)]
        assert [one["pruned"] for one in found] == [True] * 4 + [False] * 3
        assert "details removed by retention" in federation.admin("rounds", "show", "2", "--run", "run").out


# -- by age, on real parts ---------------------------------------------------------------------------------------------


@dataclass
class Aged:
    """A pruner of real parts whose clock is set by hand."""

    folder: Path
    now: float = 1000 * DAY_S

    def __post_init__(self) -> None:
        (self.folder / "scratch").mkdir()
        self.store: Store = open_store(f"sqlite:///{self.folder / 'c.db'}")
        self.blobs, self.spool = LocalBlobs(self.folder / "blobs"), Spool(self.folder / "uploads")
        self.pruner = Pruner(
            store=self.store,
            blobs=self.blobs,
            scratch=self.folder / "scratch",
            uploads=self.spool,
            limits=Limits(rounds=1000, days=10.0),
            clock=lambda: self.now,
        )

    def put_run(self, name: str, *, ended: float | None, rounds: int) -> None:
        scene = Scene(state=replace(fresh(), run=name)).begin()
        scene.publish(0)
        assert scene.state.round is not None
        with self.store.transaction() as transaction:
            created = 1.0 if ended else 2.0
            transaction.put_run(replace(ROW, run=name, created=created, ended=ended, state=dump_run(scene.state)))
            for number in range(1, rounds + 1):
                round_id = replace(scene.id, round_number=number)
                row = RoundRow(round=round_id, phase=Phase.DONE, began=1.0, ended=2.0, reason="", detail="{}")
                transaction.put_round(row)

    def pruned(self, run: str) -> list[bool]:
        with self.store.transaction() as transaction:
            return [row.pruned for row in transaction.rounds(run)]


@pytest.fixture
def aged(tmp_path: Path) -> Iterator[Aged]:
    made = Aged(tmp_path)
    yield made
    made.store.close()


def test_runs_that_ended_long_ago_lose_their_details_a_little_at_a_time(
    aged: Aged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MOST_AT_ONCE", 3)
    aged.put_run("old", ended=aged.now - 11 * DAY_S, rounds=4)
    aged.put_run("recent", ended=aged.now - 9 * DAY_S, rounds=1)
    aged.put_run("going on", ended=None, rounds=1)
    aged.pruner.start()
    assert aged.pruned("old") == [True, True, True, False]
    aged.pruner.start()
    assert aged.pruned("old") == [True] * 4
    assert aged.pruned("recent") + aged.pruned("going on") == [False, False]


def test_expired_tokens_and_scratch_files_go_at_the_start(aged: Aged) -> None:
    token = TokenRow(
        token_id="t",
        secret_sha256=b"",
        role="site",
        member_id="a",
        modalities=(),
        approval=False,
        created=1.0,
        expires=aged.now - 11 * DAY_S,
        state=TokenState.USED,
    )
    with aged.store.transaction() as transaction:
        transaction.put_token(token)
        transaction.put_token(replace(token, token_id="young", expires=aged.now - 9 * DAY_S))
    (aged.folder / "scratch" / "sum-1-1").write_bytes(b"half a sum")
    aged.pruner.start()
    with aged.store.transaction() as transaction:
        assert [row.token_id for row in transaction.tokens()] == ["young"]
    assert not list((aged.folder / "scratch").iterdir())


def test_uploads_that_nobody_went_on_with_go_and_wanted_ones_stay(aged: Aged) -> None:
    contents = {name: name.encode() * 10 for name in ("forsaken", "fresh", "wanted")}
    refs = {
        name: ArtefactRef(sha256=hashlib.sha256(each).hexdigest(), size=len(each)) for name, each in contents.items()
    }
    for name, one in refs.items():
        with aged.spool.writer(f"site {name}", one, 0) as writer:
            writer.write(0, contents[name][:5])
    for path in (aged.folder / "uploads").glob("*/*.part"):
        age = UPLOAD_S / 2 if refs["fresh"].sha256 in path.name else 2 * UPLOAD_S
        os.utime(path, (aged.now - age, aged.now - age))
    wanted = frozenset({refs["wanted"].sha256})
    assert aged.spool.expire(aged.now - UPLOAD_S, wanted) == 1
    assert [aged.spool.offset(f"site {name}", one) for name, one in refs.items()] == [0, 5, 5]
    assert len(list((aged.folder / "uploads").iterdir())) == 2
