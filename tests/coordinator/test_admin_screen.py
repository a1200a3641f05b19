"""The picture of a run at a terminal: whole at any size, who needs attention first, colours only where wanted."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from coordinator.cli.admin import watching
from coordinator.cli.admin.screen import Screen, attention
from coordinator.cli.admin.watching import Watcher

NOW = 10_000.0


def site(name: str, **other: Any) -> dict[str, Any]:
    made = {"site": name, "modalities": ["flair", "t1"], "state": "training", "reason": "", "seconds": 0.0}
    return {**made, "done": 3, "total": 10, "last_seen": NOW - 5, **other}


def view(*sites: dict[str, Any], **other: Any) -> dict[str, Any]:
    current = {
        "round": 12,
        "attempt": 1,
        "phase": "training",
        "reason": "",
        "began": NOW - 100,
        "ended": 0.0,
        "participants": list(sites),
        "durations": [{"phase": "planned", "seconds": 10.0}],
        "seconds_left": 600.0,
        "closed": {},
    }
    found = {
        "run": "trial",
        "method": "fedmepd",
        "aggregation": "secure",
        "state": "running",
        "reason": "",
        "paused": False,
        "rounds": 100,
        "round": current,
        "ended": 0.0,
        "lead": {"activity": "waiting", "done": 0, "total": 0},
        "cohort": {"round": 0, "sites": 0, "dice": {}, "lead_dice": {}},
    }
    return {**found, **other}


def drawn(found: dict[str, Any], width: int = 120, height: int = 40, **options: Any) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), record=True, force_terminal=True)
    console.print(Screen(found, now=NOW, **options))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_run_round_phase_and_times_are_at_the_top() -> None:
    lines = drawn(view(site("a")))
    assert lines[0] == "trial (fedmepd, secure) running"
    assert lines[1].startswith("round 12/100 ━━━")
    assert lines[1].endswith("· training for 1 min 30 s, at most 10 min 0 s more")
    assert lines[2].startswith("planned 10 s → training → advertise →")
    assert lines[-1].startswith("Ctrl-C")


def test_a_plain_run_has_no_secure_phases() -> None:
    assert "advertise" not in "\n".join(drawn(view(site("a"), aggregation="plain")))


def test_how_well_the_model_does_is_shown_once_it_is_known() -> None:
    assert not any("Dice" in line for line in drawn(view(site("a"))))
    cohort = {"round": 11, "sites": 9, "dice": {"whole": 0.85, "core": 0.7}, "lead_dice": {"whole": 0.9}}
    assert "after round 11, mean Dice of 9 sites: core 0.700 · whole 0.850; lead: whole 0.900" in drawn(
        view(site("a"), cohort=cohort)
    )


def test_a_run_that_is_over_counts_no_time() -> None:
    over = view(site("a", state="contributed"), state="failed", reason="quorum", ended=NOW)
    lines = drawn(over)
    assert lines[0] == "trial (fedmepd, secure) failed (quorum)"
    assert " for " not in lines[1]


@pytest.mark.parametrize("width", [120, 80, 60, 40])
@pytest.mark.parametrize("height", [24, 50])
def test_a_hundred_sites_fit_any_window(width: int, height: int) -> None:
    sites = [site(f"hospital-{n:03d}", state="ready" if n % 2 else "training") for n in range(100)]
    sites[70] = site("hospital-070", state="declined", reason="policy")
    lines = drawn(view(*sites), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if line.startswith("hospital-")]
    assert rows[0].startswith("hospital-070")
    (left,) = [line for line in lines if line.startswith("and ")]
    assert left.startswith(f"and {100 - len(rows)} more: 50 ready")


@pytest.mark.parametrize(
    ("width", "wanted", "left_out"),
    [
        (120, "site modalities state progress last seen reason", ""),
        (80, "progress", "modalities"),
        (40, "done", "seen"),
    ],
)
def test_narrow_windows_leave_columns_out(width: int, wanted: str, left_out: str) -> None:
    (head,) = [" ".join(line.split()) for line in drawn(view(site("a")), width) if line.strip().startswith("site")]
    assert wanted in head
    assert not left_out or left_out not in head


def test_names_of_sites_are_never_markup() -> None:
    assert any(line.strip().startswith("[red]x") for line in drawn(view(site("[red]x", reason="[/]"))))


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({"state": "absent"}, 0),
        ({"state": "revoked"}, 0),
        ({"last_seen": NOW - 100}, 1),
        ({}, 2),
        ({"state": "ready", "last_seen": NOW - 100}, 3),
    ],
)
def test_who_needs_attention(changes: dict[str, Any], level: int) -> None:
    assert attention(site("a", **changes), NOW) == level


def test_the_last_picture_shows_all_sites_and_no_hint() -> None:
    sites = [site(f"hospital-{n:03d}") for n in range(100)]
    lines = drawn(view(*sites), 80, 24, whole=True)
    assert sum(line.startswith("hospital-") for line in lines) == 100
    assert not any("Ctrl-C" in line for line in lines)


def test_a_lost_connection_is_told_in_the_picture() -> None:
    assert "cannot talk to the coordinator Trying again." in drawn(
        view(site("a")), trouble="cannot talk to the coordinator Trying again."
    )


def test_lines_are_printed_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Watcher() as watcher:
        watcher.show(view(site("a")))
        watcher.show(view(site("a")))
        watcher.lost("gone.")
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "trial: running",
        "trial round 12/100: training",
        "trial round 12/100: a training",
    ]
    assert said.err == "gone.\n"


_AT_A_TERMINAL = """
import sys
from tests.coordinator.test_admin_screen import site, view
from coordinator.cli.admin.watching import Watcher
with Watcher() as watcher:
    watcher.show(view(site("hospital-a")))
    watcher.lost("the line is cut")
"""


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "xterm-256color"), ("TERM", "dumb")])
def test_a_terminal_gets_its_screen_back_with_the_last_picture_in_it(variable: str, value: str) -> None:
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "COLUMNS", "LINES"}}
    environment |= {"TERM": "xterm-256color", variable: value}
    code = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, '.')\n{_AT_A_TERMINAL}"]
    with subprocess.Popen(code, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environment) as process:
        os.close(theirs)
        said = _read(ours)
        _, complaint = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0, complaint
    if value == "dumb":
        assert "\x1b" not in said
        assert "trial: running" in said
        return
    assert "\x1b[?1049h" in said
    before, _, after = said.partition("\x1b[?1049l")
    assert "hospital-a" in before
    assert "hospital-a" in after
    assert ("\x1b[1;32m" in said) is (variable != "NO_COLOR")


def _read(descriptor: int) -> str:
    found = b""
    while select.select([descriptor], [], [], 60)[0]:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        found += piece
    return found.decode()


def test_before_the_first_view_it_says_what_it_waits_for() -> None:
    assert watching.Watcher()._drawn() == "waiting for the coordinator"
