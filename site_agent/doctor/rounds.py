"""The doctor's round: folder, service, identity, policy, network and disks; machine and patients by the trainer."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from fedmepd.errors import FedmepdError
from protos.disk_findings import examine_user
from protos.findings import Finding, Verdict, fail, ok, skip, warn
from protos.machine_findings import machine, patients
from security.errors import SecurityError
from security.folders import IdentityFolder, LoadedIdentity
from site_agent.config import Config
from site_agent.doctor.disks import examine_disks
from site_agent.doctor.ledger import examine_ledger
from site_agent.doctor.network import certificate, examine_network
from site_agent.doctor.policy import examine_policy
from site_agent.doctor.service import examine_service
from site_agent.errors import AgentError
from site_agent.identity import FOLDER

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
Check = Callable[[], Mapping[str, Any]]


def examine(config: Config, *, passphrase: bytes | None, check: Check) -> Iterator[Finding]:
    """Look at everything, one finding at a time.

    Args:
        config: The configuration.
        passphrase: Of the keys.
        check: Does the trainer's job `check` and returns its result.
    """
    found = _folder(config)
    yield found
    if found.verdict is Verdict.FAIL:
        return
    yield from examine_service(config)
    loaded, finding = _identity(config, passphrase)
    yield finding
    if loaded is not None:
        yield certificate(loaded, datetime.now(UTC))
    yield from examine_policy(config)
    yield examine_ledger(config, loaded)
    yield from examine_network(config, loaded)
    yield from examine_disks(config)
    yield from _machine_and_patients(config, check)


def _folder(config: Config) -> Finding:
    try:
        mode = config.data.stat().st_mode
        if not stat.S_ISDIR(mode):
            return fail("folder", f"{config.data} is not a folder", "check agent.data, or move the file away")
        if (found := examine_user("folder", config.data, command="fedmepd-agent doctor")) is not None:
            return found
        list(config.data.iterdir())
    except FileNotFoundError:
        return skip("folder", f"{config.data} is made when the site enrols")
    except OSError as error:
        return fail("folder", f"{config.data} cannot be read ({error.strerror})", "run as the agent's user")
    if mode & _OTHERS:
        return warn("folder", f"{config.data} is open to other users", f"chmod 700 {config.data}")
    return ok("folder", f"{config.data}, for this user only")


def _identity(config: Config, passphrase: bytes | None) -> tuple[LoadedIdentity | None, Finding]:
    folder = IdentityFolder(config.data / FOLDER)
    if not folder.has_certificate:
        return None, skip("identity", "not enrolled yet: fedmepd-agent enroll")
    try:
        loaded = folder.load(passphrase)
    except SecurityError as error:
        return None, fail("identity", error.problem, error.remedy or "")
    return loaded, ok("identity", f"site {loaded.identity.id} of {loaded.identity.consortium}")


def _machine_and_patients(config: Config, check: Check) -> Iterator[Finding]:
    try:
        found = check()
    except (AgentError, FedmepdError) as error:
        yield fail("trainer", error.problem, error.remedy or "see logs/doctor.log in the agent's folder")
        return
    yield from machine(found, wanted=config.compute.device)
    if (said := found.get("cohort_error")) is not None:
        problem, remedy = said
        yield fail("patients", str(problem), str(remedy))
        return
    cohort = config.cohort
    yield from patients(
        found.get("cohort"), modalities=cohort.modalities, skip_invalid=cohort.skip_invalid, key="cohort"
    )
