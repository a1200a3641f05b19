"""The disks of the agent: the one with its state, and that of prepared cases if it is another."""

from __future__ import annotations

from collections.abc import Iterator

from protos.disk_findings import examine_volume, existing
from protos.findings import Finding
from site_agent.config import Config

_KEY = "limits.min_free_bytes"


def examine_disks(config: Config) -> Iterator[Finding]:
    """Look at room, files and speed."""
    least = config.limits.min_free_bytes
    yield examine_volume("disk", config.data, least=least, key=_KEY, write=True)
    if existing(config.cache).stat().st_dev != existing(config.data).stat().st_dev:
        yield examine_volume("disk of cases", config.cache, least=least, key=_KEY, write=False)
