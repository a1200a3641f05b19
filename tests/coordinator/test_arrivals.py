"""Inputs that are whole: remembered as the database has them, over restarts and rounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.arrivals import Arrivals
from coordinator.errors import ConflictError
from coordinator.store import SqlStore, open_store
from protos.terms import ArtefactRef, RoundId
from tests.coordinator.store_suite import RUN

FIRST = RoundId(run=RUN.run, round_number=1)
SECOND = RoundId(run=RUN.run, round_number=2)
ONE, OTHER = ArtefactRef(sha256="1" * 64, size=4), ArtefactRef(sha256="2" * 64, size=4)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    store = open_store(f"sqlite:///{tmp_path / 'c.db'}")
    with store.transaction() as transaction:
        transaction.put_run(RUN)
    yield store
    store.close()


def test_what_arrived_is_known_and_durable(store: SqlStore) -> None:
    arrivals = Arrivals(store)
    assert arrivals.of(FIRST, "a") is None
    arrivals.put(FIRST, "a", ONE)
    assert arrivals.of(FIRST, "a") == ONE
    assert arrivals.of(FIRST, "b") is None
    with store.transaction() as transaction:
        assert transaction.inputs(FIRST) == {"a": ONE}


def test_what_arrived_is_known_after_a_restart(store: SqlStore) -> None:
    Arrivals(store).put(FIRST, "a", ONE)
    assert Arrivals(store).of(FIRST, "a") == ONE


def test_rounds_do_not_share_inputs(store: SqlStore) -> None:
    arrivals = Arrivals(store)
    arrivals.put(FIRST, "a", ONE)
    assert arrivals.of(SECOND, "a") is None
    arrivals.put(SECOND, "a", OTHER)
    assert (arrivals.of(FIRST, "a"), arrivals.of(SECOND, "a")) == (ONE, OTHER)


def test_another_input_is_refused_and_not_remembered(store: SqlStore) -> None:
    arrivals = Arrivals(store)
    arrivals.put(FIRST, "a", ONE)
    with pytest.raises(ConflictError):
        arrivals.put(FIRST, "a", OTHER)
    assert arrivals.of(FIRST, "a") == ONE
