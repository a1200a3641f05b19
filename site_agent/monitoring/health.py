"""Whether the agent can do its work: what `/readyz` and `/healthz` say, and the metrics `ready` and `check`.

A check that cannot be made has failed, and says why; none of them waits for the network.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from protos.exposition import Check
from security.errors import SecurityError
from site_agent.errors import AgentError
from site_agent.gathering import Tools
from site_agent.monitoring.catalogue import CHECKS

_log = structlog.get_logger("site_agent.monitoring")
HEARD_S, TURN_S = 90.0, 5.0
_BEAT_S = 1.0


class Pulse:
    """Whether the event loop turns: it says so once a second.

    Args:
        monotonic: Seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic, self._last = monotonic, float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    @property
    def silent_s(self) -> float:
        """Seconds since the loop turned."""
        return self._monotonic() - self._last

    @property
    def alive(self) -> bool:
        """Whether it turned within the last five seconds."""
        return self.silent_s < TURN_S

    def beat(self) -> None:
        """Note that the running loop turns, and go on doing so."""
        self._last = self._monotonic()
        self._timer = asyncio.get_running_loop().call_later(_BEAT_S, self.beat)

    def stop(self) -> None:
        """Say no more."""
        if self._timer is not None:
            self._timer.cancel()


class Health:
    """Makes the checks.

    Args:
        tools: What the agent works with.
        pulse: Of its event loop.
    """

    def __init__(self, tools: Tools, pulse: Pulse) -> None:
        self._tools, self._pulse = tools, pulse

    def checks(self) -> Sequence[Check]:
        """Return every check as it is now."""
        return [self._made(name) for name in CHECKS]

    def _made(self, name: str) -> Check:
        try:
            problem, text = getattr(self, f"_{name}")()
        except (AgentError, SecurityError, OSError, ValueError) as error:
            problem, text = f"cannot be looked at: {error}", ""
        except Exception as error:  # noqa: BLE001  a fault of ours is a check that failed, too
            _log.warning("a check of readiness", check=name, reason=repr(error)[:300])
            problem, text = f"cannot be looked at ({type(error).__name__})", ""
        return Check(name=name, ok=not problem, text=problem or text)

    # each returns what is wrong, empty if nothing is, and what is so

    def _certificate(self) -> tuple[str, str]:
        facts, now = self._tools.identity.loaded.facts, self._tools.now
        if now >= facts.not_after:
            return f"expired at {_at(facts.not_after)}: ask the operator for a new token and enrol again", ""
        if now < facts.not_before:
            return f"not valid before {_at(facts.not_before)}: check this machine's clock", ""
        return "", f"until {_at(facts.not_after)}"

    def _coordinator(self) -> tuple[str, str]:
        heard = self._tools.watch.last_contact
        if heard is None:
            return "not heard since the agent was started: `fedmepd-agent doctor` finds out why", ""
        ago = max(0.0, self._tools.clock() - heard)
        words = f"heard {ago:.0f} s ago"
        return (words, "") if ago > HEARD_S else ("", words)

    def _disk(self) -> tuple[str, str]:
        free, least = shutil.disk_usage(self._tools.config.data).free, self._tools.config.limits.min_free_bytes
        words = f"{free >> 20} MiB free, limits.min_free_bytes is {least >> 20} MiB"
        return (words, "") if free < least else ("", words)

    def _trainer(self) -> tuple[str, str]:
        watch = self._tools.watch
        if watch.trouble:
            return f"{watch.trouble}; see logs/trainer.log", ""
        if watch.trainer_up():
            return "", "up"
        return ("has a job and does not run", "") if watch.busy else ("", "not needed now")

    def _membership(self) -> tuple[str, str]:
        found = self._tools.watch.membership
        if found is None:
            return "", "no list was seen yet: it is fetched with the first round"
        return found.problem, f"listed in version {found.version}"

    def _loop(self) -> tuple[str, str]:
        return ("", "turns") if self._pulse.alive else (f"has not turned for {self._pulse.silent_s:.0f} s", "")


def nearest(path: Path) -> Path:
    """Return a folder, or the nearest above it that is there: what is on its disk."""
    return next(one for one in (path, *path.absolute().parents) if one.exists())


def _at(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
