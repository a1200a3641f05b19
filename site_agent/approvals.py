"""What a person at the site has approved or denied, and what waits for one.

    policy/decisions.jsonl   append-only, written by `fedmepd-agent policy`: who, when, what, why
    policy/waiting.json      written by the agent: what waits
    policy/audited           how many decisions the agent has put into its audit log

An approval binds to a fingerprint: of a run its specification, of a member its identity key, of a configuration the
digest of the plan. Another specification or key under the same name waits anew. The last decision holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from fedmepd.durable import write_text
from fedmepd.plan import Plan, dump_plan
from site_agent import journal
from site_agent.errors import ConfigError, StateError
from site_agent.faults import disk

FOLDER = "policy"


class Kind(StrEnum):
    """What can be approved."""

    RUN = "run"
    MEMBER = "member"
    CONFIGURATION = "configuration"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Subject:
    """Something to be approved.

    Attributes:
        kind: What it is.
        id: Its name.
        fingerprint: What exactly, hexadecimal.
        about: What a person should know of it.
    """

    kind: Kind
    id: str
    fingerprint: str
    about: str = ""

    def __str__(self) -> str:
        """Return the name by which it is approved."""
        return f"{self.kind.value}/{self.id}"

    def same(self, other: Subject) -> bool:
        """Whether both are about the same thing, whatever is said of it."""
        return (self.kind, self.id, self.fingerprint) == (other.kind, other.id, other.fingerprint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A person's word.

    Attributes:
        subject: On what.
        approved: Or denied.
        by: Who.
        at: When, ISO 8601.
        reason: Why.
    """

    subject: Subject
    approved: bool
    by: str
    at: str
    reason: str


def configuration_of(plan: Plan) -> str:
    """Return the digest of a plan."""
    text = json.dumps(dump_plan(plan), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Decisions:
    """All decisions as they are at one time, oldest first."""

    all: tuple[Decision, ...]

    def verdict(self, subject: Subject) -> bool | None:
        """Return whether something was approved or denied; None if nobody has decided."""
        return next((one.approved for one in reversed(self.all) if one.subject.same(subject)), None)

    def denied(self, member: Subject) -> bool:
        """Whether a member is denied: with this key, or by name and not approved since, whatever key it has."""
        named = (one.approved for one in reversed(self.all) if str(one.subject) == str(member))
        return self.verdict(member) is False or next(named, None) is False


class Approvals:
    """The decisions and what waits, in an agent's folder.

    Args:
        data: The agent's folder.
    """

    def __init__(self, data: Path) -> None:
        self._decisions, self._waiting = data / FOLDER / "decisions.jsonl", data / FOLDER / "waiting.json"
        self._audited = data / FOLDER / "audited"

    def read(self) -> Decisions:
        """Return the decisions, to be asked about many things without reading the file for each.

        Raises:
            StateError: If the file is damaged.
        """
        return Decisions(self.decisions())

    def decisions(self) -> tuple[Decision, ...]:
        """Return all decisions, oldest first.

        Raises:
            StateError: If the file is damaged.
        """
        try:
            return tuple(_decision(row) for row in journal.read(self._decisions))
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"{self._decisions} is damaged", remedy="restore it from a backup") from error

    def verdict(self, subject: Subject) -> bool | None:
        """Return whether something was approved or denied; None if nobody has decided."""
        return self.read().verdict(subject)

    def decide(self, subject: Subject, *, approved: bool, by: str, at: datetime, reason: str = "") -> None:
        """Put down a person's word.

        Raises:
            StorageError: If it cannot be made durable.
        """
        who = {"by": by, "at": at.isoformat(), "reason": reason}
        journal.append(self._decisions, {**asdict(subject), "approved": approved, **who})

    def unaudited(self) -> tuple[Decision, ...]:
        """Return the decisions that the agent's audit log does not have yet."""
        return self.decisions()[self._count() :]

    def audited(self) -> None:
        """Note that the oldest of them is in the audit log; a crash before it puts the same one there again.

        Raises:
            StorageError: If it cannot be written.
        """
        count = self._count() + 1
        with disk(self._audited):
            write_text(self._audited, str(count))

    def _count(self) -> int:
        with disk(self._audited):
            text = self._audited.read_text() if self._audited.exists() else "0"
        return int(text) if text.isdecimal() else 0

    def waiting(self) -> tuple[Subject, ...]:
        """Return what waits.

        Raises:
            StateError: If the file is damaged.
        """
        with disk(self._waiting):
            if not self._waiting.exists():
                return ()
            content = self._waiting.read_text()
        try:
            rows = json.loads(content)
            return tuple(Subject(**{**row, "kind": Kind(row["kind"])}) for row in rows)
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"{self._waiting} is damaged", remedy="remove it: the agent writes it anew") from error

    def wait_for(self, subjects: Iterable[Subject]) -> None:
        """Put down what waits.

        Raises:
            StorageError: If it cannot be written.
        """
        found = tuple(sorted(subjects))
        if found != self.waiting():
            with disk(self._waiting):
                write_text(self._waiting, json.dumps([asdict(subject) for subject in found], indent=1))

    def find(self, name: str, others: Iterable[Subject] = ()) -> Subject:
        """Return what a person means by KIND/ID: what waits, else others, else what was decided on last.

        Args:
            name: The name.
            others: What can be decided on though it does not wait.

        Raises:
            ConfigError: If nothing is known by that name.
        """
        known = (*(one.subject for one in self.decisions()), *others, *self.waiting())
        for subject in reversed(known):
            if str(subject) == name:
                return subject
        raise ConfigError(
            f"nothing called {name!r} waits for approval, or was decided on",
            remedy="`fedmepd-agent policy show` lists what waits, as run/ID, member/SITE or configuration/DIGEST",
        )


def _decision(row: Mapping[str, Any]) -> Decision:
    subject = Subject(
        kind=Kind(row["kind"]), id=str(row["id"]), fingerprint=str(row["fingerprint"]), about=str(row["about"])
    )
    approved, by, at, reason = row["approved"] is True, str(row["by"]), str(row["at"]), str(row["reason"])
    return Decision(subject=subject, approved=approved, by=by, at=at, reason=reason)
