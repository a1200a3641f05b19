"""Pictures of what commands print, from a consortium made for them: `python -P -m ops.screens FOLDER [NAME...]`.

To look at, and for docs/*.png. The commands are real and so is what they print; the run behind them is played, and
hospitals have phantoms. Not part of the product and of no package: it needs the tests and a Chromium.
"""

# ruff: noqa: INP001  a program beside the files that it writes, not a part of the product

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.text import Text

from coordinator import events as ev
from coordinator.cli import main as coordinator_main
from coordinator.cli.admin import main as admin_main
from coordinator.cli.admin.watching import Watcher
from coordinator.keeping import keep
from coordinator.records import RunRow
from coordinator.servicer import greet
from coordinator.state import SiteStatus
from fedmepd.phantom import write_cohort
from protos.terms import Phase
from protos.v1.admin_pb2_grpc import add_AdminServicer_to_server
from protos.v1.common_pb2 import HelloReply, HelloRequest
from protos.v1.federation_pb2_grpc import FederationServicer, add_FederationServicer_to_server
from security import sealed
from site_agent.cli import main as agent_main
from site_agent.status import StatusFile
from tests.coordinator import secure_at_hand
from tests.coordinator.admin_at_hand import site
from tests.coordinator.runs_at_hand import publication, ref
from tests.coordinator.secure_at_hand import SecureScene
from tests.coordinator.served import CONSORTIUM, ENVIRONMENT, Served, command, served
from tests.coordinator.test_privacy_commands import write_ledger

HOSPITALS = {
    "amsterdam": ("flair", "t1", "t1ce", "t2"),
    "basel": ("flair", "t1ce"),
    "cologne": ("flair", "t1", "t1ce", "t2"),
    "dublin": ("t2",),
    "esbjerg": ("flair", "t1ce", "t2"),
    "freiburg": ("flair", "t1", "t1ce", "t2"),
    "graz": ("flair", "t1"),
    "helsinki": ("flair", "t1ce"),
}
WIDTHS = (100, 80)
_TOOK_S = {Phase.TRAINING: 840.0, Phase.MASKED: 95.0}
_WHY = "waits for a person's approval of a new policy at the hospital"
_FOLDER = "/srv/fedmepd"  # shown instead of the temporary one
_DAY_S = 86_400.0
_TROUBLED = 11  # the last round that is over
_RUN = """[run]
name = "trial"
rounds = 100
methods = ["fedmepd"]
"""
_AGENT = """[agent]
data = "agent"
coordinator = "{address}"
enrolment = "{newcomers}"
site = "graz"

[cohort]
path = "cohort"
modalities = ["flair", "t1"]

[metrics]
listen = "127.0.0.1:0"

[compute]
device = "cpu"
"""


class Terminal(StringIO):
    """Where commands believe that somebody looks."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """A command line, what runs it, and where."""

    main: Callable[[list[str]], None]
    words: tuple[object, ...]
    folder: Path

    @property
    def title(self) -> str:
        """The command line, without where things are."""
        words = list(map(str, self.words))
        ends = [words.index(option) for option in ("--identity", "--config") if option in words]
        programs = ((admin_main, "fedmepd-admin"), (agent_main, "fedmepd-agent"))
        program = next((name for main, name in programs if main is self.main), "fedmepd-coordinator")
        return " ".join([program, *words[: min(ends, default=len(words))]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the screens, or those that are named; return the exit code."""
    parser = argparse.ArgumentParser(description="Draw what commands print.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args(arguments)
    asked.folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, _world(Path(folder)) as screens:
        for name in asked.names or screens:
            for width in WIDTHS:
                draw(_printed(screens[name], width), screens[name].title, width, asked.folder / f"{name}-{width}.png")
    return 0


def draw(printed: str, title: str, width: int, target: Path) -> None:
    """Draw what was printed, as a window of so many columns."""
    console = Console(width=width, record=True, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(printed))
    svg = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title=title), flags=re.DOTALL)
    drawing = target.with_suffix(".svg")
    drawing.write_text(svg, encoding="utf-8")
    (box,) = re.findall(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', svg)
    size = ",".join(str(math.ceil(float(side))) for side in box)
    browser = ("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    subprocess.run(  # noqa: S603  a browser that a developer has
        [*browser, f"--window-size={size}", f"--screenshot={target.resolve()}", drawing.resolve().as_uri()],
        check=True,
        capture_output=True,
        timeout=180,
    )
    drawing.unlink()


def _printed(screen: Screen, width: int) -> str:
    """Return what a command prints at a terminal of so many columns."""
    out, err = Terminal(), StringIO()
    surroundings = {"COLUMNS": str(width), "LINES": "40", "TERM": "xterm-256color", "FORCE_COLOR": "1"}
    with (
        patch.dict(os.environ, {**ENVIRONMENT, **surroundings}),
        patch.object(Watcher, "show", _once),
        redirect_stdout(out),
        redirect_stderr(err),
        chdir(screen.folder),
        suppress(SystemExit),
    ):
        screen.main([str(word) for word in screen.words])
    printed = out.getvalue().replace(str(screen.folder), _FOLDER)
    return re.sub(r"\x1b\[\?\d+[hl]|\x1b\[H", "", printed.rpartition("\x1b[?1049l")[2]).rstrip() + "\n"


_SHOW = Watcher.show


def _once(watcher: Watcher, view: dict[str, Any]) -> None:
    """Show a view and press Ctrl-C."""
    _SHOW(watcher, view)
    raise KeyboardInterrupt


@contextmanager
def _world(folder: Path) -> Iterator[dict[str, Screen]]:
    """Make a consortium whose run is in its twelfth round."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(sealed, "_LOG2_COST", 10))
        stack.enter_context(patch.dict(secure_at_hand.OWN, HOSPITALS, clear=True))
        stack.enter_context(patch("tests.coordinator.served.add_AdminServicer_to_server", _add_both))
        fed = stack.enter_context(served(folder))
        write_ledger(folder)
        _enrol(fed)
        _play(fed)
        yield _screens(fed)


class _Greeter(FederationServicer):
    """What an agent's doctor asks a coordinator."""

    async def Hello(self, request: HelloRequest, context: object) -> HelloReply:  # noqa: ARG002, N802  the schema's
        return greet(request, CONSORTIUM, time.time())


def _add_both(admin: Any, server: Any) -> None:
    add_AdminServicer_to_server(admin, server)
    add_FederationServicer_to_server(_Greeter(), server)  # type: ignore[abstract]


def _screens(fed: Served) -> dict[str, Screen]:
    def admin(*words: object) -> Screen:
        return Screen(main=admin_main, words=(*words, "--identity", "alice"), folder=fed.folder)

    def agent(*words: object) -> Screen:
        return Screen(main=agent_main, words=(*words, "--config", "agent.toml"), folder=fed.folder)

    return {
        "runs-watch": admin("runs", "watch"),
        "runs-show": admin("runs", "show"),
        "runs-list": admin("runs", "list"),
        "sites-list": admin("sites", "list"),
        "sites-show": admin("sites", "show", "graz"),
        "rounds-list": admin("rounds", "list"),
        "rounds-show": admin("rounds", "show", _TROUBLED),
        "models-list": admin("models", "list"),
        "policy-show": admin("policy", "show"),
        "privacy-report": admin("privacy", "report"),
        "agent-doctor": agent("doctor"),
        "agent-status": agent("status"),
        "coordinator-doctor": Screen(
            main=coordinator_main, words=("doctor", "--config", "data/coordinator.toml"), folder=fed.folder
        ),
        "help": Screen(main=admin_main, words=("--help",), folder=fed.folder),
    }


def _enrol(fed: Served) -> None:
    """Enrol hospitals; graz by its own command, with a cohort and an agent that has written down what it does."""
    for name, own in HOSPITALS.items():
        if name != "graz":
            site(fed, name, *own)
    config = fed.folder / "agent.toml"
    config.write_text(_AGENT.format(address=fed.members, newcomers=fed.newcomers))
    token = fed.admin("tokens", "create", "graz").out
    made = command(agent_main, "enroll", "--config", config, "--token", "-", stdin=token)
    if made.code:
        raise SystemExit(made.err)
    signed = fed.admin("membership", "sign", "--consortium-dir", fed.folder / "consortium", "--yes")
    if signed.code:
        raise SystemExit(signed.err)
    for cohort in (fed.folder / "cohort", fed.folder / "data" / "cohort"):
        write_cohort(cohort, kind="brain", cases=3, shape=(32, 32, 32), seed=1, workers=1)
    status = StatusFile(fed.folder / "agent")
    now, known = status.now, time.time()
    now.connected, now.since, now.site, now.run, now.round = True, known - 7000, "graz", "trial", 12
    now.aggregation, now.step, now.phase, now.done, now.total = "secure", "unmask", "training", 340, 600
    now.certificate_expires, now.metrics = known + 80 * _DAY_S, "127.0.0.1:9465"
    for number in range(7, 12):
        status.score("trial", number, 0.7 + number / 100)
    status.write()


def _play(fed: Served) -> None:
    """Play eleven rounds with some trouble, and a part of the twelfth."""
    scene = SecureScene(now=time.time() - _TROUBLED * 1095 - 300)
    scene.state = replace(scene.state, run="trial", sites=dict(HOSPITALS), rounds=100, policy=secure_at_hand.POLICY)
    row = RunRow(
        run="trial", name="trial", method="fedmepd", created=scene.now, ended=None, status="", state="",
        configuration_toml=_RUN,
    )  # fmt: skip
    fed.runs.scene = scene
    scene.begin()
    _publish(scene, 0)
    for number in range(1, _TROUBLED + 1):
        _round(scene, number)
        with fed.store.transaction() as transaction:
            keep(transaction, row, scene.state, scene.take(ev.RoundEnded), {}, scene.now)
    for name in ("cologne", "helsinki"):
        scene.tell(ev.SiteAccepted(site=name, round=scene.id))
    with fed.store.transaction() as transaction:
        keep(transaction, row, scene.state, (), {}, scene.now)
    promoted = fed.admin("models", "promote", "trial", 9)
    if promoted.code:
        raise SystemExit(promoted.err)


def _train(scene: SecureScene) -> None:
    for place, name in enumerate(scene.current.sites(SiteStatus.EXPECTED)):
        scene.tell(ev.SiteAccepted(site=name, round=scene.id))
        scene.tell(ev.SiteTrained(site=name, round=scene.id, manifest=None, seconds=540.0 + 37 * place))


def _mask(scene: SecureScene) -> None:
    scene.mask()
    scene.upload()


def _publish(scene: SecureScene, number: int) -> None:
    made = publication(number)
    scene.tell(ev.LeadTrained(round_number=number))
    scene.tell(ev.Published(publication=replace(made, model=ref(f"model{number}", 37_400_000))))


def _round(scene: SecureScene, number: int) -> None:
    steps: dict[Phase, Callable[[], object]] = {
        Phase.TRAINING: lambda: _train(scene),
        Phase.ADVERTISE: scene.advertise,
        Phase.SHARE: scene.share,
        Phase.MASKED: lambda: _mask(scene),
        Phase.CONSISTENCY: scene.confirm,
        Phase.UNMASK: scene.unmask,
        Phase.AGGREGATING: lambda: scene.open(
            {"modality/t1": "segment modality/t1 has 3 sites; 4 are demanded (amsterdam)"}
            if number == _TROUBLED
            else {}
        ),
    }
    if number == _TROUBLED:
        scene.tell(ev.SiteDeclined(site="freiburg", round=scene.id, reason=_WHY))
    while scene.phase in steps:
        if scene.phase is Phase.ADVERTISE and scene.current.terms is None:
            scene.settle()
        scene.now += _TOOK_S.get(scene.phase, 4.0)
        steps[scene.phase]()
    scene.now += 140.0
    _publish(scene, number)


if __name__ == "__main__":
    sys.exit(main())
