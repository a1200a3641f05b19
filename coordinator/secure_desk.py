"""What sites report in a secure run: checked by the core before the run hears of it (PROTOCOL 5.8 to 5.14).

What breaks a rule is refused, and who sent it is out of the round. What is said before it is asked for is stale. What
comes too late, or is of a round that is over, is not looked at, and its content does not come as far as the session: a
message that was not checked cannot be kept, whatever happens between the check and the keeping (SPEC 11.1).
"""

from __future__ import annotations

import asyncio

from coordinator import events as ev
from coordinator.admission import check_manifest, check_segments
from coordinator.board import Board, content_of
from coordinator.errors import RefusedError, StaleError
from coordinator.runs import Runs
from coordinator.secure_round import advertisement_of, answer_of, bundle_of, keys_of, setting_for
from coordinator.state import AWAITED, RoundState, RunState, Step
from fedmepd.runspec import RunSpec
from protos.terms import (
    Advertised,
    Confirmed,
    Masked,
    Phase,
    Prepared,
    Report,
    ReportBody,
    RoundId,
    Shared,
    Unmasked,
)
from security.errors import SecurityError
from security.secagg import KeySet, check_advertisement, check_answer, check_bundle, check_confirmation

SECURE = (Prepared, Advertised, Shared, Masked, Confirmed, Unmasked)
_STEPS: dict[type, tuple[Phase, Step]] = {
    Advertised: (Phase.ADVERTISE, Step.ADVERTISED),
    Shared: (Phase.SHARE, Step.SHARED),
    Confirmed: (Phase.CONSISTENCY, Step.CONFIRMED),
    Unmasked: (Phase.UNMASK, Step.UNMASKED),
}


class SecureDesk:
    """Turns reports of secure aggregation into events.

    Args:
        runs: The run and its driver.
        max_update_bytes: Largest upload.
    """

    def __init__(self, runs: Runs, *, max_update_bytes: int) -> None:
        self._runs, self._driver, self._max_update_bytes = runs, runs.driver, max_update_bytes
        self._keys: tuple[RoundId, KeySet] | None = None
        self._claims: tuple[RoundId, dict[bytes, str]] | None = None

    async def event(self, site: str, report: Report) -> ev.Event:
        """Check a report and return the event that it is.

        Raises:
            RefusedError: If it breaks a rule.
            StaleError: If it is said before it is asked for.
        """
        round_id, body = report.round, report.body
        if isinstance(body, Prepared | Masked):
            return await self._announced(site, round_id, body)
        if not await self._is_checked(site, round_id, body):
            return ev.SiteSpokeLate(site=site, round=round_id)
        content = content_of(round_id, body)
        match body:
            case Advertised(minimum=minimum, colluders=colluders):
                return ev.SiteAdvertised(
                    site=site, round=round_id, minimum=minimum, colluders=colluders, content=content
                )
            case Shared():
                return ev.SiteShared(site=site, round=round_id, content=content)
            case Confirmed():
                return ev.SiteConfirmed(site=site, round=round_id, content=content)
            case Unmasked():
                return ev.SiteUnmasked(site=site, round=round_id, content=content)
        raise RefusedError("this run takes no such report")

    async def _announced(self, site: str, round_id: RoundId, body: Prepared | Masked) -> ev.Event:
        layout, own = await self._runs.layout(), self._runs.state(None).sites.get(site, ())
        if isinstance(body, Prepared):
            check_segments(body.segments, layout, own, max_bytes=self._max_update_bytes)
            return ev.SiteTrained(site=site, round=round_id, manifest=None, seconds=body.seconds)
        check_manifest(body.manifest, layout, own, max_bytes=self._max_update_bytes)
        return ev.SiteMasked(site=site, round=round_id, manifest=body.manifest)

    async def _is_checked(self, site: str, round_id: RoundId, body: ReportBody) -> bool:
        """Check a step's message if it is that of a site that is asked for it now; False if it comes too late.

        Phases and statuses only go forward, so what was checked and comes too late after all is refused by the session.
        """
        state, board = self._driver.state, self._driver.board
        phase, step = _STEPS[type(body)]
        current = _begun(state, round_id, phase)
        if state is None or current is None:
            return False
        kept = board.content(step, site)
        if kept is not None and kept != content_of(round_id, body):
            raise RefusedError(
                f"the site was {step.value} before with another message",
                remedy="one answer is given per round and attempt, and never another",
            )
        if kept is not None:
            return True
        known = current.participant(site)
        if current.phase is not phase or known is None or known.status not in AWAITED[phase]:
            return False
        if current.terms is None:
            raise StaleError("the terms of the round are not settled", remedy="ask for the next instruction")
        spec = await self._runs.spec()
        try:
            await asyncio.to_thread(self._verify, state, board, spec, site, body)
        except SecurityError as error:
            raise RefusedError(error.problem, remedy=error.remedy) from error
        if isinstance(body, Advertised):
            self._claim(site, round_id, body)
        return True

    def _claim(self, site: str, round_id: RoundId, said: Advertised) -> None:
        """Give the keys of an advertisement to its site: of two that are checked at the same time, one has them."""
        if self._claims is None or self._claims[0] != round_id:
            self._claims = (round_id, {})
        owners = self._claims[1]
        if {owners.get(key, site) for key in (said.channel_key, said.mask_key)} != {site}:
            raise _equal_keys()
        owners |= {said.channel_key: site, said.mask_key: site}

    def _verify(self, state: RunState, board: Board, spec: RunSpec, site: str, body: ReportBody) -> None:
        """Check a message by the rules of its step; runs in a thread."""
        current = state.round
        if current is None:
            return
        if isinstance(body, Advertised):
            _verify_keys(state, board, spec, site, body)
            return
        keys = self._key_set(state, board, spec)
        match body:
            case Shared():
                check_bundle(keys, bundle_of(site, body))
            case Confirmed(signature=signature):
                check_confirmation(keys, current.shared, current.survivors, site, signature)
            case Unmasked():
                check_answer(keys, current.shared, current.survivors, answer_of(site, body))

    def _key_set(self, state: RunState, board: Board, spec: RunSpec) -> KeySet:
        """Return U1 and its keys, made once per attempt."""
        current = state.round
        if current is None or self._keys is None or self._keys[0] != current.id:
            setting = setting_for(state, spec)
            if current is None:
                raise RefusedError("there is no round")
            self._keys = (current.id, keys_of(setting, current, board))
        return self._keys[1]


def _verify_keys(state: RunState, board: Board, spec: RunSpec, site: str, body: Advertised) -> None:
    """Check an advertisement, and that no key of it is known already: honest sites would refuse the round."""
    check_advertisement(setting_for(state, spec), advertisement_of(site, body))
    terms = None if state.round is None else state.round.terms
    if terms is not None and body.minimum < terms.minimum_cohort:
        raise RefusedError(
            f"the site demands {body.minimum} sites, the signed list {terms.minimum_cohort}",
            remedy="raise the site's minimum to that of the list",
        )
    others = [board.advertised(peer) for peer in board.sites(Step.ADVERTISED) if peer != site]
    known = {key for said in others for key in (said.channel_key, said.mask_key)}
    if body.channel_key == body.mask_key or known & {body.channel_key, body.mask_key}:
        raise _equal_keys()


def _equal_keys() -> RefusedError:
    return RefusedError("two of the round's keys are equal", remedy="a site makes fresh keys for every attempt")


def _begun(state: RunState | None, round_id: RoundId, phase: Phase) -> RoundState | None:
    """Return the round, if a phase of it has begun; None if it is over.

    Raises:
        StaleError: If the phase has not begun.
    """
    current = None if state is None else state.round
    if state is None or current is None or round_id.run != state.run:
        raise StaleError("the round is not under way", remedy="ask for the next instruction")
    asked, here = ((one.round_number, one.attempt) for one in (round_id, current.id))
    if asked > here or (asked == here and current.phase < phase):
        raise StaleError("the round has not come to this", remedy="ask for the next instruction")
    return current if asked == here else None
