"""An agent with a trainer that trains nothing, for tests against a coordinator."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedmepd.artefacts import contribution_length
from fedmepd.layout import Layout
from fedmepd.layout_json import layout_to_json
from site_agent.approvals import Approvals
from site_agent.backoff import Backoff
from site_agent.charges import Charges
from site_agent.config import Config
from site_agent.driver import Agent
from site_agent.gathering import Tools
from site_agent.identity import SiteIdentity
from site_agent.link import Link
from site_agent.membership import Standing
from site_agent.policy_file import Policy
from site_agent.purse import Purse
from site_agent.reports import Ledger
from site_agent.rules import Rules
from site_agent.secagg.steps import Steps
from site_agent.status import StatusFile
from site_agent.training import Training
from site_agent.transfers import Downloads

PLAIN = Policy.model_validate({"aggregation": {"plain": True}})
_PURSES: dict[Path, Purse] = {}


@dataclass
class Noted:
    """An audit log that is a list."""

    records: list[tuple] = field(default_factory=list)

    def note(self, action, subject, outcome, /, **details):
        self.records.append((action, subject, outcome, details))

    def has(self, *actions):
        return any(record[0] in actions for record in self.records)

    def of(self, action):
        return [record for record in self.records if record[0] == action]


@dataclass
class IdleTrainer:
    """Answers jobs as the worker does; what it contributes is made up, the same for the same round.

    In a private run every training gives something else, and what is still there is given again, as the worker does.
    """

    layout: Layout
    own: tuple[str, ...]
    jobs: list[str] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    hang: asyncio.Event | None = None
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: int = 0
    patients: int = 100
    asked: list[dict] = field(default_factory=list)

    async def run(self, job, arguments, progress):
        self.jobs.append(job)
        if self.failures:
            raise self.failures.pop(0)
        if job == "open":
            return {"layout": layout_to_json(self.layout), "training_patients": self.patients}
        if job == "account":
            self.asked.append(arguments)
            return {"epsilons": [made_up_epsilon(history) for history in arguments["histories"]]}
        if job == "finish":
            progress("testing", 1, 2)
            return {"run_dir": arguments["run_dir"]}
        progress("training", 1, 2)
        if self.hang is not None:
            self.hanging.set()
            await self.hang.wait()
        return self._contribute(arguments)

    def stop(self):
        self.stopped += 1

    def _contribute(self, arguments):
        assert all(Path(path).is_file() for path in arguments["inputs"]["segments"].values())
        number, out = arguments["round"], Path(arguments["out_dir"])
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"contribution-{number:06d}.bin"
        value = number if arguments.get("patients") is None else secrets.randbelow(1 << 20)
        values = np.full(contribution_length(self.layout, self.own) // 4, value, "<u4").tobytes()
        if arguments.get("patients") is not None and path.exists():
            values = path.read_bytes()
        path.write_bytes(values)
        sha256 = hashlib.sha256(values).hexdigest()
        return {"contribution": path.name, "sha256": sha256, "seconds": 0.1, "dice": {"mean": 0.5}, "warnings": []}


def made_up_epsilon(history):
    """Return a sum that an accountant would be proud of: one for each step at noise 1."""
    return sum(steps / noise for noise, _, steps in history)


def no_pause():
    return Backoff(uniform=lambda _low, _high: 0.0)


def config_of(data, members, newcomers, own, **limits) -> Config:
    return Config.model_validate(
        {
            "agent": {"data": data, "coordinator": members, "enrolment": newcomers},
            "cohort": {"path": data / "cohort", "modalities": list(own)},
            "limits": {"min_free_bytes": 0, **limits},
            "metrics": {"listen": "127.0.0.1:0"},
        }
    )


def policy_tools(data, site, policy=PLAIN, notes=None):
    """Return what of an agent's tools has to do with policy and secure aggregation."""
    notes = notes or Noted()
    rules = Rules(policy=policy, approvals=Approvals(data), site=site, notes=notes)
    return {"rules": rules, "steps": Steps.at(data, notes), "notes": notes}


def charges_of(data, loaded, trainer, policy=PLAIN, notes=None, clock=time.time):
    """Return what pays for private rounds; the ledger of an agent before it on the same folder is closed."""
    if (before := _PURSES.pop(data, None)) is not None:
        before.close()
    data.mkdir(exist_ok=True)
    purse = Purse.open(data, loaded, notes or Noted(), budget=policy.privacy.budget, clock=clock)
    _PURSES[data] = purse
    return Charges(purse, policy.privacy, trainer)


def close_ledgers():
    """Close the ledgers of all agents of a test."""
    while _PURSES:
        _PURSES.popitem()[1].close()


def build_tools(config, trainer, coordinator=None, clock=time.time, policy=PLAIN) -> Tools:
    identity = SiteIdentity(config.data, None)
    status = StatusFile(config.data)
    downloads = Downloads(config.data / "downloads", stall_s=config.limits.stall_s)
    address = config.agent.coordinator
    notes = Noted()
    charges = charges_of(config.data, identity.loaded, trainer, policy, notes, clock)
    return Tools(
        config=config,
        identity=identity,
        coordinator=coordinator or Link(address, config.proxy_for(address), identity.credentials),
        training=Training(config, identity.loaded.identity.id, trainer, downloads, status, charges),
        downloads=downloads,
        ledger=Ledger(config.data / "reports.json"),
        standing=Standing(config.data / "membership.json"),
        status=status,
        clock=clock,
        **policy_tools(config.data, identity.loaded.identity.id, policy, notes),
    )


async def soon(seconds):
    await asyncio.sleep(min(seconds, 0.02))


def build_agent(tools, *, until_finished=True, sleep=soon) -> Agent:
    return Agent(tools, until_finished=until_finished, sleep=sleep, backoff=no_pause)


async def until_true(condition):
    while not condition():  # noqa: ASYNC110  what a daemon writes down comes without an event
        await asyncio.sleep(0.01)
