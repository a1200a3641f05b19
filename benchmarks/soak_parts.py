"""The processes of the soak: a coordinator that says when a round is over, and agents whose trainers train nothing.

    python -m benchmarks.soak_parts coordinator FOLDER SETTINGS
    python -m benchmarks.soak_parts agents FOLDER SETTINGS NAME=ADDRESS ...

Both go on where they were when they are started again on the same folder. They answer with lines of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from benchmarks.federated_round import write_contribution
from benchmarks.processes import layout_of, say
from coordinator.config import Config, Lead, Metrics, Retention, Service, StatusPage
from coordinator.events import TrainLead
from coordinator.ports import LeadFiles
from coordinator.server import Coordinator, serve
from fedmepd.aggregation import quantisation
from fedmepd.layout_json import layout_to_json
from protos.heap import return_memory, spare_memory
from security import sealed
from site_agent.assembly import alone, tools_of
from site_agent.audit import AuditLog
from site_agent.driver import Agent
from site_agent.gathering import Tools
from site_agent.identity import SiteIdentity
from tests.federation.hospital import MODALITIES, Hospital, IdleLead
from tests.site_agent.agent_at_hand import config_of

RUN = """
[run]
name = "soak"
rounds = {rounds}
methods = ["fedmepd"]
[federation]
aggregation = "{aggregation}"
quorum = 0.6
grace_s = 3.0
absent_s = 12.0
first_deadline_s = 30.0
least_deadline_s = 30.0
stall_s = 30.0
step_s = 15.0
step_grace_s = 3.0
failed_rounds = 10
"""
_KEPT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is run.

    Attributes:
        agents: How many.
        rounds: Of the run.
        values: Of the model, in all.
        aggregation: `secure` or `plain`.
        kept_rounds: Rounds whose details the coordinator keeps.
    """

    agents: int
    rounds: int
    values: int
    aggregation: str
    kept_rounds: int

    @property
    def names(self) -> tuple[str, ...]:
        """The agents."""
        return tuple(f"s{n:02d}" for n in range(self.agents))

    def dumped(self) -> str:
        """Return what `Settings(**json.loads(text))` reads."""
        return json.dumps(asdict(self))


def log_to(path: Path) -> None:
    """Log as services do, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(path.open("a", buffering=1)),
    )


# -- the coordinator ---------------------------------------------------------------------------------------------------


class TinyLead(IdleLead):
    """A lead that publishes a model too, and keeps the files of a few rounds only, as the real one does."""

    async def part(self, spec: Path, part: TrainLead, sum_path: Path | None) -> LeadFiles:
        """Return the files of a round."""
        made = await super().part(spec, part, sum_path)
        self.parts.clear()
        model = self.folder / str(part.round_number) / "model"
        await asyncio.to_thread(model.write_bytes, b"%032d" % part.round_number)
        await asyncio.to_thread(shutil.rmtree, self.folder / str(part.round_number - _KEPT), ignore_errors=True)
        return replace(made, model=model)


async def coordinate(folder: Path, wanted: Settings) -> None:
    """Serve until the run is over; say where, and whenever a round is over which."""
    hospital = Hospital(folder, dict.fromkeys(wanted.names, MODALITIES))
    lead = TinyLead(folder / "lead", layout_of(wanted.values), keep_sums=False)
    config = Config(
        coordinator=Service(
            data=folder / "coordinator", listen="localhost:0", enrolment="localhost:0", min_free_bytes=0
        ),
        lead=Lead(cohort=folder / "cohort", cache=folder / "cache"),
        metrics=Metrics(listen="localhost:0"),
        status_page=StatusPage(listen="localhost:0"),
        retention=Retention(rounds=wanted.kept_rounds),
    )
    until, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(config, lead, passphrase=None, until=until, ready=ready.set_result))
    await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    made: Coordinator = ready.result()
    if made.runs.driver.state is None:
        for client in (await hospital.open(made)).values():
            await client.close()
        return_memory()
    say({"members": made.addresses[0], "metrics": made.metrics})
    if made.runs.driver.state is None:
        await asyncio.to_thread(sys.stdin.readline)
        await made.runs.start(RUN.format(rounds=wanted.rounds, aggregation=wanted.aggregation), actor="benchmark")
    await _follow(made)
    await asyncio.to_thread(sys.stdin.readline)
    until.set()
    await serving


async def _follow(made: Coordinator) -> None:
    """Say which round goes on, until the run is over."""
    version, told = 0, 0
    while True:
        state = made.runs.state(None)
        if state.round is not None and state.round.id.round_number != told:
            told = state.round.id.round_number
            say({"round": told})
        if state.status.terminal:
            say({"over": state.status.value, "reason": state.reason, "suspended": len(state.suspended)})
            return
        version = await made.runs.changed(version, 10.0)


# -- agents ------------------------------------------------------------------------------------------------------------


class TinyTrainer:
    """Answers jobs as the worker does; what it contributes is made up, the same for the same round."""

    def __init__(self, wanted: Settings) -> None:
        self._layout, self._formats = layout_of(wanted.values), quantisation(sites=wanted.agents)

    async def run(self, job: str, arguments: Mapping[str, Any], progress: object) -> dict[str, Any]:
        """Do a job."""
        del progress
        if job == "open":
            return {"layout": layout_to_json(self._layout), "training_patients": 1}
        if job == "finish":
            return {"run_dir": arguments["run_dir"]}
        return await asyncio.to_thread(self._contribute, int(arguments["round"]), Path(arguments["out_dir"]))

    def _contribute(self, number: int, out: Path) -> dict[str, Any]:
        from coordinator.artefacts import ref_of

        out.mkdir(parents=True, exist_ok=True)
        path = out / f"contribution-{number:06d}.bin"
        write_contribution(path, self._layout, self._formats, number)
        return {"contribution": path.name, "sha256": ref_of(path).sha256, "seconds": 0.0}

    def stop(self) -> None:
        """Do nothing: there is no process."""


async def take_part(folder: Path, wanted: Settings, addresses: Mapping[str, str]) -> None:
    """Be agents until their run is over."""
    with ExitStack() as stack:
        agents = [
            Agent(_tools(folder, wanted, name, address, stack), until_finished=True)
            for name, address in addresses.items()
        ]
        say("ready")
        codes = await asyncio.gather(*(agent.run(asyncio.Event()) for agent in agents))
        say({"code": max(codes)})
        await asyncio.to_thread(sys.stdin.readline)


def _tools(folder: Path, wanted: Settings, name: str, address: str, stack: ExitStack) -> Tools:
    """Return what an agent works with: the real parts but for the trainer."""
    data = folder / "agents" / name
    if not data.exists():
        data.mkdir(parents=True, mode=0o700)
        (folder / "members" / name).rename(data / "identity")
    config = config_of(data, address, address, MODALITIES)
    if wanted.aggregation == "plain":
        path = data / "policy.toml"
        path.write_text("[aggregation]\nplain = true\n")
        config = config.model_copy(update={"agent": config.agent.model_copy(update={"policy": path})})
    stack.enter_context(alone(data))
    identity = SiteIdentity(data, None)
    audit = stack.enter_context(AuditLog(data, identity.loaded.identity.uri))
    identity.audit = audit
    tools = tools_of(config, identity, audit)
    stack.enter_context(contextlib.closing(tools.purse))
    tools.training.trainer = TinyTrainer(wanted)
    return tools


def main(arguments: Sequence[str]) -> None:
    what, folder, settings, *addresses = arguments
    wanted, where = Settings(**json.loads(settings)), Path(folder)
    sealed._LOG2_COST = 10  # noqa: SLF001  keys of the benchmark alone
    if what == "coordinator":
        spare_memory()
        log_to(where / "logs" / "coordinator.log")
        asyncio.run(coordinate(where, wanted))
    else:
        log_to(where / "logs" / f"agents-{addresses[0].partition('=')[0]}.log")
        asyncio.run(take_part(where, wanted, dict(one.split("=", 1) for one in addresses)))


if __name__ == "__main__":
    main(sys.argv[1:])
