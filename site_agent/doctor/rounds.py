"""The doctor's round: folder and identity, the policy, the network, the disk; machine and patients by the trainer."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from security.errors import SecurityError
from security.folders import IdentityFolder, LoadedIdentity
from site_agent.config import Config
from site_agent.doctor.findings import Finding, fail, ok, skip, warn
from site_agent.doctor.ledger import examine_ledger
from site_agent.doctor.network import certificate, examine_network
from site_agent.doctor.policy import examine_policy
from site_agent.errors import AgentError, RefusalError
from site_agent.identity import FOLDER

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MOST_CASES = 50
Check = Callable[[], Mapping[str, Any]]


def examine(config: Config, *, passphrase: bytes | None, check: Check) -> Iterator[Finding]:
    """Look at everything, one finding at a time.

    Args:
        config: The configuration.
        passphrase: Of the keys.
        check: Does the trainer's job `check` and returns its result.
    """
    yield _folder(config)
    loaded, finding = _identity(config, passphrase)
    yield finding
    if loaded is not None:
        yield certificate(loaded, datetime.now(UTC))
    yield from examine_policy(config)
    yield examine_ledger(config, loaded)
    yield from examine_network(config, loaded)
    yield _disk(config)
    yield from _machine_and_patients(config, check)


def _folder(config: Config) -> Finding:
    try:
        mode = config.data.stat().st_mode
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


def _disk(config: Config) -> Finding:
    place = next(path for path in (config.data, *config.data.parents) if path.exists())
    try:
        free, least = shutil.disk_usage(place).free, config.limits.min_free_bytes
    except OSError as error:
        return fail("disk", f"{place} cannot be looked at ({error.strerror})")
    text = f"{free / 2**30:.1f} GiB free"
    if free < least:
        return fail("disk", f"{text}, limits.min_free_bytes is {least / 2**30:.1f} GiB", "make room")
    return ok("disk", text)


def _machine_and_patients(config: Config, check: Check) -> Iterator[Finding]:
    try:
        found = check()
    except (RefusalError, AgentError) as error:
        yield fail("trainer", error.problem, "see logs/trainer.log in the agent's folder")
        return
    device = found.get("device_name") or found.get("device")
    text = f"{device}, {found.get('threads')} threads, torch {found.get('torch')}"
    if str(found.get("device")) == "cpu" and config.compute.device != "cpu":
        yield warn("trainer", f"{text}: no GPU was found", "check the driver; or set compute.device = 'cpu'")
    else:
        yield ok("trainer", text)
    cohort = found.get("cohort")
    if cohort is None:
        yield fail("patients", "the trainer has not looked at the cohort", "update the agent")
    else:
        yield from _patients(config, cohort)


def _patients(config: Config, cohort: Mapping[str, Any]) -> Iterator[Finding]:
    counts = cohort["per_modality"]
    numbers = ", ".join(f"{name} {counts.get(name, 0)}" for name in config.cohort.modalities)
    cases = cohort["cases"]
    usable = sum(bool(case["usable"]) for case in cases)
    text = f"{usable} of {len(cases)} cases can be used; {numbers}"
    absent = [name for name in config.cohort.modalities if not counts.get(name)]
    if not usable or absent:
        yield fail("patients", text, "check cohort.path, cohort.layout and cohort.modalities")
    elif usable < len(cases) and not config.cohort.skip_invalid:
        yield fail("patients", text, "mend the cases below, or set cohort.skip_invalid = true")
    else:
        yield ok("patients", text)
    yield from _cases(cases)


def _cases(cases: list[Mapping[str, Any]]) -> Iterator[Finding]:
    """Name each unusable case; this is read at the hospital and goes nowhere else."""
    bad = [case for case in cases if not case["usable"]]
    for case in bad[:_MOST_CASES]:
        worst = case["problems"][0]
        yield warn(f"case {case['case_id']}", str(worst["message"]), str(worst["remedy"]))
    if len(bad) > _MOST_CASES:
        yield warn("patients", f"{len(bad) - _MOST_CASES} more cases cannot be used", "fedmepd cohort check lists all")
