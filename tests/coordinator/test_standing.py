"""Metrics, status page and commands say the same of the same run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.cli.admin.screen import standing as by_command
from coordinator.monitoring.collector import _modalities, _state_of
from coordinator.standing import ownership, word
from coordinator.state import Participant, RunState, RunStatus, SiteStatus
from coordinator.status_page.model import _modalities as by_page_who
from coordinator.status_page.model import _standing as by_page
from tests.coordinator.runs_at_hand import started


def state_of(**changes: object) -> RunState:
    return replace(started().state, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("status", list(RunStatus))
@pytest.mark.parametrize("paused", [False, True])
def test_a_state_is_the_same_word_everywhere(status: RunStatus, *, paused: bool) -> None:
    state = state_of(status=status, paused=paused)
    view = {"state": status.value, "paused": paused, "ended": 1.0 if status.terminal else 0.0}
    said = {_state_of(state), by_page(status.value, paused=paused)[0], by_command(view)}
    assert said == {word(status.value, paused=paused)}
    assert (said == {"paused"}) == (paused and status in {RunStatus.STARTING, RunStatus.RUNNING})


def round_with(state: RunState, **statuses: SiteStatus) -> RunState:
    assert state.round is not None
    known = tuple(
        Participant(site=site, modalities=state.sites[site], status=status) for site, status in statuses.items()
    )
    return replace(state, round=replace(state.round, participants=known))


SITES = {"a": ("t1", "t2"), "b": ("t1",), "c": ("t1",)}


@pytest.mark.parametrize("with_round", [False, True])
def test_page_and_metrics_count_the_same_owners(*, with_round: bool) -> None:
    state = state_of(sites=SITES, revoked=("b",), previous=("a", "b"))
    statuses = {"a": SiteStatus.DECLINED, "b": SiteStatus.REVOKED, "c": SiteStatus.TRAINING}
    state = round_with(state, **statuses) if with_round else replace(state, round=None)
    told = dict(_modalities(state))
    for found in by_page_who(state):
        assert found.owners == told[found.modality, "owners"] == len(found.names)
        assert found.active == told.get((found.modality, "active"), 0)
        assert found.contributed == told[found.modality, "contributed"]
    t1, t2 = ownership(state)
    assert (t1.owners, t2.owners) == (("a", "c"), ("a",)), "a revoked site owns nothing any more"
    assert t1.contributed == ("a", "b")
    assert (t1.active, t2.active) == ((("c",), ()) if with_round else (None, None))


def test_before_the_first_sum_nobody_has_contributed() -> None:
    found = ownership(state_of(sites=SITES, previous=()))
    assert {one.contributed for one in found} == {None}
