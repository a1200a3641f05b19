"""Real agents for the stage of secure rounds over TLS: contributions that fit the run, and all their secrets noted."""

from __future__ import annotations

import asyncio

from site_agent.audit import AuditLog
from site_agent.secagg.steps import Steps
from tests.federation.attacks.victim import DrawnTrainer, WatchedKeeper
from tests.federation.secure_site import contribution
from tests.federation.test_secure_rounds_over_tls import SITES
from tests.site_agent.agent_at_hand import build_agent, build_tools, config_of
from tests.site_agent.test_secure_driver import THREE


class RealAgent:
    """An agent of a stage.

    Args:
        stage: With a coordinator that serves; its sites are enrolled.
        site: Which of them.
    """

    def __init__(self, stage, site):
        self.name, own = site, SITES[site]
        self.states, self.inputs = [], {}
        data = stage.hospital.folder / "agents" / site
        data.mkdir(parents=True, mode=0o700)
        (data / "identity").symlink_to(stage.hospital.folder / "members" / site)
        self.data, address = data, stage.made.addresses[0]
        trainer = DrawnTrainer(stage.lead.layout, own)
        trainer.draw = self._draw
        self.own, self.layout = own, stage.lead.layout
        self.tools = build_tools(config_of(data, address, address, own), trainer, policy=THREE)
        self.log = AuditLog(data, f"spiffe://test/site/{site}")
        steps = Steps.at(data, self.log)
        steps.keeper = WatchedKeeper(data, self.states)
        self.tools.rules.notes = self.log
        for name, value in (("steps", steps), ("notes", self.log)):
            object.__setattr__(self.tools, name, value)

    def _draw(self, number):
        spec = next(iter(self.tools.training._spec[1:]))
        self.inputs[number] = contribution(self.layout, spec, self.own, (self.name, number))
        return self.inputs[number]

    async def work(self):
        try:
            return await build_agent(self.tools).run(asyncio.Event())
        finally:
            self.log.close()
