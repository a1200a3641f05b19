"""What sites have said in the steps of one attempt, and the tasks that are made of it.

In memory, with the same content as the table of step messages. Messages are the reports as they were released; they
were checked before they were kept. A task is made once per closed set of sites and site, and its fingerprint with it:
a hundred sites that ask again and again cost a look-up each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import cast

from coordinator.errors import TransitionError
from coordinator.state import RoundState, Step
from protos import codec
from protos.terms import (
    Advertise,
    Advertised,
    AdvertisedKeys,
    Confirm,
    Confirmed,
    Mask,
    Phase,
    Report,
    ReportBody,
    RoundId,
    SealedShare,
    Share,
    Shared,
    SurvivorSignature,
    Unmask,
    Unmasked,
)
from protos.v1 import federation_pb2 as messages

StepTask = Advertise | Share | Mask | Confirm | Unmask
Messages = Mapping[Step, Mapping[str, bytes]]
_NUMBER = 1  # of a kept report; the site's own numbering is not part of what it said


def content_of(round_id: RoundId, body: ReportBody) -> bytes:
    """Return the stored form of a message."""
    report = codec.encode_report(Report(sequence=_NUMBER, round=round_id, body=body))
    return report.SerializeToString(deterministic=True)


class Board:
    """The messages of one attempt.

    Args:
        round_id: Which; None before the first round.
        messages: Those that were kept.
    """

    def __init__(self, round_id: RoundId | None = None, messages: Messages | None = None) -> None:
        self.round = round_id
        self._contents: dict[Step, dict[str, bytes]] = {step: {} for step in Step}
        for step, said in (messages or {}).items():
            self._contents[step] |= said
        self._bodies: dict[tuple[Step, str], ReportBody] = {}
        self._sealed: dict[str, dict[str, bytes]] = {}
        self._tasks: dict[tuple[Phase, str], tuple[StepTask, str]] = {}

    def put(self, step: Step, site: str, content: bytes) -> None:
        """Add a message."""
        self._contents[step][site] = content

    def content(self, step: Step, site: str) -> bytes | None:
        """Return a message in its stored form, if there is one."""
        return self._contents[step].get(site)

    def sites(self, step: Step) -> tuple[str, ...]:
        """Return who said something in a step, sorted."""
        return tuple(sorted(self._contents[step]))

    def advertised(self, site: str) -> Advertised:
        """Return a site's keys."""
        return cast("Advertised", self._body(Step.ADVERTISED, site))

    def shared(self, site: str) -> Shared:
        """Return a site's sealed shares."""
        return cast("Shared", self._body(Step.SHARED, site))

    def confirmed(self, site: str) -> Confirmed:
        """Return a site's signature."""
        return cast("Confirmed", self._body(Step.CONFIRMED, site))

    def unmasked(self, site: str) -> Unmasked:
        """Return a site's answer."""
        return cast("Unmasked", self._body(Step.UNMASKED, site))

    def task(self, current: RoundState, site: str) -> tuple[StepTask, str]:
        """Return what a site is asked in a phase of secure aggregation, and what identifies it.

        Raises:
            TransitionError: If the attempt is another one, or its terms are not settled.
        """
        if current.id != self.round or current.terms is None:
            raise TransitionError(f"there are no messages of round {current.id}")
        key = (current.phase, site if current.phase is Phase.MASKED else "")
        if key not in self._tasks:
            task = self._made(current, site)
            content = current.terms.task.context if isinstance(task, Advertise) else repr(task)
            print_ = hashlib.sha256(f"{current.phase.name} {content}".encode()).hexdigest()
            self._tasks[key] = (task, print_)
        return self._tasks[key]

    def _made(self, current: RoundState, site: str) -> StepTask:
        match current.phase:
            case Phase.ADVERTISE if current.terms is not None:
                return current.terms.task
            case Phase.SHARE:
                return Share(keys=tuple(self._keys(peer) for peer in current.advertised))
            case Phase.MASKED:
                return Mask(sharers=current.shared, shares=self._sealed_for(current, site))
            case Phase.CONSISTENCY:
                return Confirm(survivors=current.survivors)
            case Phase.UNMASK:
                signatures = (
                    SurvivorSignature(site=peer, signature=self.confirmed(peer).signature) for peer in current.confirmed
                )
                return Unmask(signatures=tuple(signatures))
        raise TransitionError(f"sites are asked for nothing in phase {current.phase.name}")

    def _keys(self, site: str) -> AdvertisedKeys:
        said = self.advertised(site)
        return AdvertisedKeys(
            site=site,
            channel_key=said.channel_key,
            mask_key=said.mask_key,
            minimum=said.minimum,
            colluders=said.colluders,
            signature=said.signature,
        )

    def _sealed_for(self, current: RoundState, site: str) -> tuple[SealedShare, ...]:
        """Return what the others of U2 sealed for a site."""
        return tuple(
            SealedShare(site=peer, sealed=self._sealed_by(peer)[site]) for peer in current.shared if peer != site
        )

    def _sealed_by(self, site: str) -> Mapping[str, bytes]:
        if site not in self._sealed:
            self._sealed[site] = {share.site: share.sealed for share in self.shared(site).shares}
        return self._sealed[site]

    def _body(self, step: Step, site: str) -> ReportBody:
        if (step, site) not in self._bodies:
            message = messages.ReportRequest.FromString(self._contents[step][site])
            self._bodies[step, site] = codec.decode_report(message).body
        return self._bodies[step, site]
