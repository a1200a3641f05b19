"""What a site knows of a round by itself, gathered for the checks and answers of secure aggregation (SPEC 9.5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmepd.layout import Layout
from fedmepd.runspec import RunSpec
from protos.terms import RoundId
from security.membership import MembershipList
from security.secagg import Demands
from site_agent.session import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """A site's own view of a round.

    Attributes:
        site: Its id.
        consortium: Whose membership key it pinned.
        identity_key: Signs for it.
        round: Which attempt.
        spec: The run's specification.
        spec_sha256: Its hash, hexadecimal.
        layout: As the site's own network has it.
        result: The contribution, with what it was trained on.
        contribution: Its file.
        listed: The newest membership list, verified.
        minimum: Fewest sites in a sum, by policy and list.
        colluders: Sites that are assumed to work for the coordinator.
        counted: Sites that a person approved; None if the list is enough.
        most_norm: Largest norm of an update; None for any.
        now: The time.
    """

    site: str
    consortium: str
    identity_key: Ed25519PrivateKey = field(repr=False)
    round: RoundId
    spec: RunSpec
    spec_sha256: str
    layout: Layout
    result: Result
    contribution: Path
    listed: MembershipList
    minimum: int
    colluders: int = 0
    counted: frozenset[str] | None = None
    most_norm: float | None = None
    now: datetime

    @property
    def own(self) -> tuple[str, ...]:
        """The site's modalities."""
        return self.spec.sites[self.site]

    def demands(self, roster: Sequence[str]) -> Demands:
        """Return what the site demands of every sum that its input is in (SPEC 10.1).

        Sites that nobody here approved do not count: as many more are demanded, and assumed to collude.

        Raises:
            SmallCohortError: If so many sites cannot be demanded.
        """
        more = strangers(roster, self.counted, self.site)
        return Demands(minimum=self.minimum + more, colluders=self.colluders + more)


def strangers(sites: Iterable[str], counted: frozenset[str] | None, own: str) -> int:
    """Return how many of some sites, beside our own, nobody here approved; 0 if `counted` is None."""
    return 0 if counted is None else len(set(sites) - counted - {own})
