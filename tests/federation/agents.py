"""Real agents with a trainer that trains nothing, for hospitals of `tests.federation.hospital`."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from fedmepd.layout import Layout
from site_agent.hands import Tools
from site_agent.policy_file import Policy
from tests.federation.hospital import Hospital
from tests.site_agent.agent_at_hand import PLAIN, IdleTrainer, build_agent, build_tools, config_of


def tools_of(
    hospital: Hospital,
    site: str,
    address: str,
    layout: Layout,
    trainer: IdleTrainer | None = None,
    policy: Policy = PLAIN,
    **limits: object,
) -> Tools:
    """Return what the agent of an enrolled site works with."""
    own = hospital.sites[site]
    data = hospital.folder / "agents" / site
    if not data.exists():
        data.mkdir(parents=True, mode=0o700)
        shutil.copytree(hospital.folder / "members" / site, data / "identity", symlinks=True)
    config = config_of(data, address, address, own, **limits)
    return build_tools(config, trainer or IdleTrainer(layout, own), policy=policy)


def start_agent(tools: Tools) -> asyncio.Task[int]:
    """Let an agent work until the run is over."""
    return asyncio.create_task(build_agent(tools).run(asyncio.Event()))


def data_of(hospital: Hospital, site: str) -> Path:
    return hospital.folder / "agents" / site
