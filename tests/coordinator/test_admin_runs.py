"""Runs, rounds and models by `fedmepd-admin`, against a served coordinator, over mutual TLS."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from coordinator.admin_channel import UnreachableError
from coordinator.cli.admin import watching
from coordinator.cli.admin.connection import Connection
from coordinator.state import RunStatus
from tests.coordinator.admin_at_hand import listed, start
from tests.coordinator.served import CONSORTIUM, Served, served


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture
def fed(_shared: Served) -> Served:
    _shared.runs.scene = None
    return _shared


def test_a_run_is_started_steered_and_listed(fed: Served) -> None:
    start(fed)
    assert "run run is running" in fed.admin("runs", "start", fed.folder / "run.toml").err
    assert "paused" in fed.admin("runs", "pause").out
    assert "paused" in fed.admin("runs", "list").out
    assert "is running" in fed.admin("runs", "resume", "run").out
    assert "aborted" in fed.admin("runs", "abort", "--reason", "wrong", "--yes").out
    (found,) = listed(fed, "runs", "list")
    assert (found["state"], found["reason"], found["method"]) == ("aborted", "wrong", "fedmepd")
    assert fed.admin("runs", "pause", "nothing").code == 2


def test_watching_tells_each_change_once_and_ends_with_the_run(fed: Served) -> None:
    start(fed)
    scene = fed.runs.scene
    assert scene is not None
    steps = iter((lambda: scene.train("a"), lambda: scene.train("b", "c"), None))
    shown: list[dict] = []
    show = watching.Watcher.show

    def step(self: watching.Watcher, view: dict) -> None:
        shown.append(view)
        show(self, view)
        act = next(steps, None)
        if act is not None:
            act()
            fed.runs.save()
        elif len(shown) == 3:
            fed.admin("runs", "abort", "--reason", "enough", "--yes")

    with patch.object(watching.Watcher, "show", step):
        said = fed.admin("runs", "watch")
    assert said.code == 1
    lines = said.out.splitlines()
    assert lines[0] == "run: running"
    assert "run round 1/2: training" in lines
    assert "run round 1/2: a ready" in lines
    assert "run round 1/2: masked" in lines
    assert lines[-1] == "run: aborted (enough)"
    assert lines.count("run round 1/2: training") == 1
    assert json.loads(fed.admin("runs", "watch", "--json").out)["state"] == "aborted"


def test_rounds_are_listed_and_shown(fed: Served) -> None:
    start(fed)
    (found,) = listed(fed, "rounds", "list")
    assert (found["round"], found["phase"], [p["site"] for p in found["participants"]]) == (
        1,
        "training",
        ["a", "b", "c"],
    )
    assert "training" in fed.admin("rounds", "list").out
    assert "flair, t1" in fed.admin("rounds", "show", "1").out
    assert fed.admin("rounds", "show", "9").code == 2
    assert fed.admin("rounds", "list", "nothing").code == 2


def test_models_name_their_contributors_and_are_exported_whole(fed: Served) -> None:
    content = bytes(range(256)) * 12_000
    start(fed)
    fed.put_model(1, b"old", kept=False)
    fed.put_model(2, content)
    assert [m["kept"] for m in listed(fed, "models", "list")] == [False, True]
    assert "missing       c" in fed.admin("models", "show").out
    target = fed.folder / "model.safetensors"
    said = fed.admin("models", "export", target)
    assert said.code == 0, said.err
    assert "2 contributors; missing: c" in said.out
    assert target.read_bytes() == content
    assert fed.admin("models", "export", target).code == 2
    gone = fed.admin("models", "export", fed.folder / "old", "--round", "1")
    assert (gone.code, "no longer kept" in gone.err) == (2, True)


def test_an_export_goes_on_where_it_stopped_and_notices_damage(fed: Served) -> None:
    content = bytes(range(256)) * 12_000
    start(fed)
    fed.put_model(2, content)
    digest = hashlib.sha256(content).hexdigest()
    target = fed.folder / "again"
    partial = fed.folder / f".again.{digest[:16]}.partial"
    partial.write_bytes(content[:1_500_000])
    assert fed.admin("models", "export", target).code == 0
    assert target.read_bytes() == content
    target.unlink()
    partial.write_bytes(b"x" * 1_500_000)
    damaged = fed.admin("models", "export", target)
    assert (damaged.code, "its hash differs" in damaged.err) == (2, True)
    assert not target.exists()
    assert not partial.exists()
    assert fed.admin("models", "export", target).code == 0


def test_interrupting_a_watch_leaves_the_run_alone(fed: Served) -> None:
    start(fed)
    with patch.object(watching.Watcher, "show", side_effect=KeyboardInterrupt):
        said = fed.admin("runs", "watch")
    assert said.code == 130
    assert fed.runs.state(None).status is RunStatus.RUNNING


def test_a_watch_outlives_a_lost_connection(fed: Served) -> None:
    start(fed)
    connect, tries = watching.connected, []

    @contextmanager
    def flaky(identity: Path) -> Iterator[Connection]:
        tries.append(identity)
        if len(tries) == 2:
            raise UnreachableError("gone")
        with connect(identity) as connection:
            yield connection
            if len(tries) == 1:
                raise UnreachableError("cut off")

    def abort(_: float) -> None:
        if len(tries) == 2:
            assert fed.admin("runs", "abort", "--yes").code == 0

    def cut(self: watching.Watcher, view: dict) -> None:
        self.view = view
        if len(tries) == 1:
            raise UnreachableError("cut off")

    with (
        patch.object(watching, "connected", flaky),
        patch.object(watching.time, "sleep", abort),
        patch.object(watching.Watcher, "show", cut),
    ):
        said = fed.admin("runs", "watch")
    assert (said.code, len(tries)) == (1, 3)
    assert said.err.count("Trying again") == 2


def test_an_export_is_on_record(fed: Served) -> None:
    start(fed)
    fed.put_model(2, b"model")
    assert fed.admin("models", "export", fed.folder / "noted").code == 0
    record = listed(fed, "audit", "list", "--last", "1")[0]
    assert (record["action"], record["subject"]) == ("model.exported", "run/2")
    assert record["actor"] == f"spiffe://{CONSORTIUM}/admin/alice"
