"""The hospital's policy and what the agent keeps of rounds: can they be read, and by this user alone."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from protos.findings import Finding, fail, ok, skip, warn
from site_agent.approvals import Approvals
from site_agent.config import Config
from site_agent.errors import AgentError
from site_agent.policy_file import Policy
from site_agent.secagg.keeper import FOLDER
from site_agent.secagg.spent import Spent

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def examine_policy(config: Config) -> Iterator[Finding]:
    """Look at the policy, at what waits for a person, and at the state of secure aggregation."""
    try:
        policy = Policy.of(config)
    except AgentError as error:
        yield fail("policy", error.problem, error.remedy or "")
    else:
        yield _policy(config, policy)
    try:
        waiting = Approvals(config.data).waiting()
    except AgentError as error:
        yield fail("approvals", error.problem, error.remedy or "")
    else:
        if waiting:
            names = ", ".join(str(subject) for subject in waiting)
            yield warn("approvals", f"waiting for a person: {names}", f"fedmepd-agent policy approve {waiting[0]}")
    yield _rounds(config)


def _policy(config: Config, policy: Policy) -> Finding:
    source = "defaults, no policy.toml" if config.agent.policy is None else str(config.agent.policy)
    least = policy.aggregation.minimum_cohort
    if policy.aggregation.plain:
        return warn("policy", f"{source}: updates may leave in clear", "set aggregation.plain = false")
    return ok("policy", f"{source}: secure aggregation only, over {least} sites at least")


def _rounds(config: Config) -> Finding:
    """Look at who else could read the sealed states, and whether what was spent is known."""
    what, folder = "rounds", config.data / FOLDER
    try:
        count = len(Spent(config.data).marks())
        paths = [folder, *folder.rglob("*")] if folder.is_dir() else []
        open_ones = [path for path in paths if (path.is_dir() or path.name == "key") and path.stat().st_mode & _OTHERS]
    except AgentError as error:
        return fail(what, error.problem, error.remedy or "")
    except OSError as error:
        return fail(what, f"{folder} cannot be read ({error.strerror})", "run as the agent's user")
    if open_ones:
        return fail(what, f"{open_ones[0]} is open to other users", f"chmod -R go= {folder}")
    if not paths and not count:
        return skip(what, "no secure round yet")
    return ok(what, f"{count} updates were sent masked; keys of rounds for this user only")
