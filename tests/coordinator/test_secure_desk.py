"""Messages of secure aggregation at the desk: what is not checked is not kept, and keys have one owner."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator import events as ev
from coordinator.board import Board, content_of
from coordinator.errors import RefusedError, StaleError
from coordinator.secure_desk import SecureDesk
from coordinator.session import handle
from coordinator.state import RunState, Step
from protos.terms import Advertised, Confirmed, Phase, Report, ReportBody, RoundId, SealedShare, Shared, Unmasked
from tests.coordinator.secure_at_hand import secure_run

FORGED: dict[Phase, ReportBody] = {
    Phase.ADVERTISE: Advertised(
        channel_key=b"c" * 32, mask_key=b"m" * 32, minimum=3, colluders=0, signature=b"forged".ljust(64)
    ),
    Phase.SHARE: Shared(commitments=(b"x" * 32,), shares=(SealedShare(site="b", sealed=b"forged"),)),
    Phase.CONSISTENCY: Confirmed(signature=b"forged".ljust(64)),
    Phase.UNMASK: Unmasked(seeds=(), keys=()),
}
PHASES = (
    Phase.TRAINING,
    Phase.ADVERTISE,
    Phase.SHARE,
    Phase.MASKED,
    Phase.CONSISTENCY,
    Phase.UNMASK,
    Phase.AGGREGATING,
    Phase.SERVER_TRAINING,
)
PAIRS = [(said, here) for said in FORGED for here in PHASES if here is not said]  # in its own phase it is checked


@dataclass
class Runs:
    """A run that stands still until the test says so."""

    driver: Any = field(default_factory=lambda: SimpleNamespace(state=None, board=Board()))

    async def spec(self) -> None:
        return None

    def at(self, state: RunState) -> None:
        assert state.round is not None
        self.driver.state, self.driver.board = state, Board(state.round.id)


def settled(phase: Phase) -> RunState:
    scene = secure_run().to(phase)
    if phase is Phase.ADVERTISE:
        scene.settle()
    return scene.state


def report(round_id: RoundId, body: ReportBody) -> Report:
    return Report(sequence=1, round=round_id, body=body)


def desk_of(runs: Runs) -> SecureDesk:
    return SecureDesk(runs, max_update_bytes=1000)  # type: ignore[arg-type]


def round_of(state: RunState) -> RoundId:
    assert state.round is not None
    return state.round.id


@pytest.mark.parametrize(("said", "here"), PAIRS, ids=lambda phase: phase.name)
def test_a_message_that_is_not_checked_is_not_kept_whatever_phase_comes_next(said: Phase, here: Phase) -> None:
    runs = Runs()
    runs.at(settled(here))
    asked = report(round_of(runs.driver.state), FORGED[said])
    if here < said:
        with pytest.raises(StaleError):
            asyncio.run(desk_of(runs).event("a", asked))
        return
    event = asyncio.run(desk_of(runs).event("a", asked))
    for later in PHASES:
        outcome = handle(settled(later), event, 1e9)
        assert not outcome.answer.in_round
        assert outcome.effects == ()


@pytest.mark.parametrize(("number", "attempt"), [(2, 1), (1, 2)])
def test_a_message_of_a_round_that_may_come_is_stale(number: int, attempt: int) -> None:
    runs = Runs()
    runs.at(settled(Phase.SHARE))
    for asked in (RoundId(run="run", round_number=number, attempt=attempt), RoundId(run="other", round_number=1)):
        with pytest.raises(StaleError):
            asyncio.run(desk_of(runs).event("a", report(asked, FORGED[Phase.ADVERTISE])))


def test_before_the_terms_are_settled_keys_are_stale() -> None:
    runs = Runs()
    runs.at(secure_run().to(Phase.ADVERTISE).state)
    with pytest.raises(StaleError, match="not settled"):
        asyncio.run(desk_of(runs).event("a", report(round_of(runs.driver.state), FORGED[Phase.ADVERTISE])))


def test_a_message_of_a_round_that_is_over_says_nothing_to_the_session() -> None:
    runs, state = Runs(), settled(Phase.SHARE)
    assert state.round is not None
    old = state.round.id
    runs.at(replace(state, round=replace(state.round, id=replace(old, attempt=2))))
    event = asyncio.run(desk_of(runs).event("a", report(old, FORGED[Phase.SHARE])))
    assert event == ev.SiteSpokeLate(site="a", round=old)


def test_the_same_message_again_is_the_same_event() -> None:
    runs = Runs()
    runs.at(settled(Phase.UNMASK))
    asked = round_of(runs.driver.state)
    runs.driver.board.put(Step.SHARED, "a", content_of(asked, FORGED[Phase.SHARE]))
    event = asyncio.run(desk_of(runs).event("a", report(asked, FORGED[Phase.SHARE])))
    assert isinstance(event, ev.SiteShared)
    other = Shared(commitments=(), shares=())
    with pytest.raises(RefusedError, match="another message"):
        asyncio.run(desk_of(runs).event("a", report(asked, other)))


def test_of_two_sites_that_advertise_the_same_keys_at_the_same_time_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both are checked before either is kept."""

    async def both() -> list[object]:
        runs, entered = Runs(), asyncio.Event()
        runs.at(settled(Phase.ADVERTISE))
        under_check = 0

        async def checked(*_: object) -> None:
            nonlocal under_check
            under_check += 1
            if under_check == 2:
                entered.set()
            await entered.wait()

        monkeypatch.setattr(asyncio, "to_thread", checked)
        desk, asked = desk_of(runs), round_of(runs.driver.state)
        said = [desk.event(site, report(asked, FORGED[Phase.ADVERTISE])) for site in "ab"]
        return await asyncio.gather(*said, return_exceptions=True)

    found = asyncio.run(both())
    assert sorted(type(one).__name__ for one in found) == ["RefusedError", "SiteAdvertised"]
    assert "keys are equal" in str([one for one in found if isinstance(one, RefusedError)])
