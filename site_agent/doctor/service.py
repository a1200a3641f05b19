"""The service on this machine: the running agent, its metrics port and logs, and what its user may do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protos.endpoint_findings import examine_port, examine_tls
from protos.file_tls import EndpointTls
from protos.findings import Finding, fail, ok, skip, warn
from site_agent.config import Config
from site_agent.status import is_running, read_status

_LARGE_LOG = 1 << 30
_MOST_LOOKED_AT = 2000


def examine_service(config: Config) -> Iterator[Finding]:
    """Look at what the agent's last words say, and at what it needs of its machine."""
    found = read_status(config.data)
    running = found is not None and is_running(found)
    yield _agent(found, running=running)
    metrics = config.metrics
    ours = str((found or {}).get("metrics") or metrics.listen) if running else None
    yield examine_port("metrics", metrics.listen, ours=ours, key="metrics.listen")
    if metrics.listen and (metrics.certificate is None) != (metrics.key is None):
        yield fail(
            "metrics TLS", "certificate or key is missing", "set metrics.certificate and metrics.key, or neither"
        )
    elif metrics.listen and metrics.certificate is not None and metrics.key is not None:
        tls = EndpointTls(certificate=metrics.certificate, key=metrics.key, client_ca=metrics.client_ca)
        yield from examine_tls("metrics TLS", tls, key="metrics")
    yield _logs(config.data / "logs")
    yield from _rights(config)


def _agent(found: dict[str, Any] | None, *, running: bool) -> Finding:
    what = "agent"
    if found is None:
        return skip(what, "has not run yet: fedmepd-agent run")
    if not running:
        ended = "was stopped" if found.get("stopped") else "ended without being stopped: see its log, or the journal"
        return warn(what, f"does not run; it {ended}", "fedmepd-agent run, or start its service")
    if not found.get("connected"):
        error = str(found.get("last_error") or "no reason is known")
        return warn(what, f"runs, and is not connected ({error})", "see the lines about the network below")
    run = f"in run {found['run']}, round {found['round']}" if found.get("run") else "no run"
    return ok(what, f"runs (process {found.get('pid')}), connected, {run}")


def _logs(folder: Path) -> Finding:
    what = "logs"
    if not folder.is_dir():
        return skip(what, f"{folder} is made when something is trained")
    if not os.access(folder, os.W_OK | os.X_OK):
        return fail(what, f"{folder} cannot be written by this user", "run as the agent's user, or give it the folder")
    try:
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    except OSError as error:
        return fail(
            what, f"{folder} cannot be read ({error.strerror})", "run as the agent's user, or give it the folder"
        )
    if size > _LARGE_LOG:
        return warn(what, f"{folder} holds {size / 2**30:.1f} GiB", "remove old logs while the agent is stopped")
    return ok(what, f"{folder}, {size / 2**20:.1f} MiB")


def _rights(config: Config) -> Iterator[Finding]:
    """Look whether this user may read the patients, and whether it could change them."""
    what, cohort = "rights", config.cohort.path
    if os.geteuid() == 0:
        yield warn(what, "the agent would run as root", "give it a user of its own: it needs no privileges")
    try:
        entries = [cohort] if cohort.is_file() else [cohort, *list(cohort.iterdir())[:_MOST_LOOKED_AT]]
        shut = [path for path in entries if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0))]
    except FileNotFoundError:
        yield fail(what, f"there is no {cohort}", "check cohort.path, and that the volume is mounted")
        return
    except OSError as error:
        yield fail(what, f"{cohort} cannot be read ({error.strerror})", "let the agent's user read it")
        return
    if shut:
        yield fail(
            what,
            f"{len(shut)} entries of {cohort} cannot be read, such as {shut[0].name}",
            "let the agent's user read it",
        )
    elif os.geteuid() and os.access(cohort, os.W_OK):
        yield warn(what, f"{cohort} can be changed by the agent's user", "mount it read-only: it is only read")
    else:
        yield ok(what, f"{cohort} can be read")
