"""Under which terms runs start and go on, at a whole coordinator: what is checked is what is started."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from coordinator.errors import ConfigError, ConflictError
from coordinator.records import RunRow
from coordinator.server import Coordinator
from coordinator.store import open_store
from coordinator.terms import Terms, terms_of
from fedmepd.errors import FedmepdError
from security import sealed
from security.identity import Role
from tests.federation.hospital import RUN, SECURE_RUN, Hospital, IdleLead

SITES = dict.fromkeys("abcd", ("flair", "t1ce", "t1", "t2"))
CONFIGURATION = SECURE_RUN.format(rounds=3, federation="quorum = 3") + "[personalisation]\nmin_contributors = 3\n"


def with_sites(folder: Path, scene: Callable[[Hospital, Coordinator], Awaitable[None]], *, signed: bool = True) -> None:
    """Play a scene at a coordinator with four sites."""

    async def play() -> None:
        hospital = Hospital(folder, SITES, minimum_cohort=3)
        hospital.found()
        async with hospital.serving(IdleLead(folder / "lead")) as made:
            for name, own in SITES.items():
                await asyncio.to_thread(hospital.enrol, made, Role.SITE, name, own)
            if signed:
                await asyncio.to_thread(hospital.sign_membership, made)
            await scene(hospital, made)

    with patch.object(sealed, "_LOG2_COST", 10):
        asyncio.run(play())


def last_run(hospital: Hospital) -> RunRow | None:
    store = open_store(f"sqlite:///{hospital.folder / 'coordinator' / 'coordinator.db'}")
    try:
        with store.transaction() as transaction:
            return transaction.last_run()
    finally:
        store.close()


def row_of(hospital: Hospital) -> RunRow:
    row = last_run(hospital)
    assert row is not None
    return row


def terms_now(hospital: Hospital, made: Coordinator) -> Terms:
    return terms_of(row_of(hospital), made.runs.state(None), made.registry.signed_list())


def test_a_check_says_what_a_start_says_and_leaves_nothing(tmp_path: Path) -> None:
    async def scene(hospital: Hospital, made: Coordinator) -> None:
        checked = await made.runs.check(CONFIGURATION, actor="admin:alice")
        assert checked.aggregation == "secure"
        assert {one.segment for one in checked.segments} >= {"common", "modality/flair"}
        assert made.runs.driver.state is None
        assert last_run(hospital) is None
        assert await made.runs.check(CONFIGURATION, actor="admin:alice") == checked
        assert await made.runs.start(CONFIGURATION, actor="admin:alice") == checked
        with pytest.raises(ConflictError, match="run test is"):
            await made.runs.check(CONFIGURATION, actor="admin:alice")

    with_sites(tmp_path, scene)


@pytest.mark.parametrize(
    ("configuration", "words"),
    [("[run", "TOML"), (CONFIGURATION.replace("quorum = 3", "colour = 3"), "colour")],
)
def test_a_check_refuses_what_a_start_refuses(tmp_path: Path, configuration: str, words: str) -> None:
    async def scene(_: Hospital, made: Coordinator) -> None:
        said = []
        for ask in (made.runs.check, made.runs.start):
            with pytest.raises((ConfigError, FedmepdError), match=words) as refused:
                await ask(configuration, actor="admin:alice")
            said.append(str(refused.value))
        assert said[0] == said[1]

    with_sites(tmp_path, scene)


def test_a_check_refuses_a_federation_without_a_signed_list(tmp_path: Path) -> None:
    async def scene(_: Hospital, made: Coordinator) -> None:
        with pytest.raises((ConfigError, ConflictError)) as refused:
            await made.runs.check(CONFIGURATION, actor="admin:alice")
        assert "sign" in str(refused.value)

    with_sites(tmp_path, scene, signed=False)


def test_the_terms_of_a_run_are_those_it_was_started_under(tmp_path: Path) -> None:
    async def scene(hospital: Hospital, made: Coordinator) -> None:
        started = await made.runs.start(CONFIGURATION, actor="admin:alice")
        found = terms_now(hospital, made)
        assert (found.minimum_cohort, found.min_contributors) == (3, 3)
        assert found.outlook == started

    with_sites(tmp_path, scene)


def test_a_site_that_is_no_longer_listed_is_out_of_the_terms(tmp_path: Path) -> None:
    async def scene(hospital: Hospital, made: Coordinator) -> None:
        await made.runs.start(CONFIGURATION, actor="admin:alice")
        await asyncio.to_thread(hospital.sign_membership, made, 2)
        listed = made.registry.signed_list()
        assert listed is not None
        without = replace(listed, members=listed.members[1:])
        row, state = row_of(hospital), made.runs.state(None)
        owners = {one.segment: one.owners for one in terms_of(row, state, without).outlook.segments}
        assert owners["common"] == len(SITES) - 1
        too_few = terms_of(row, state, replace(listed, members=listed.members[2:]))
        assert too_few.outlook.warnings
        stricter = terms_of(row, state, replace(listed, minimum_cohort=5))
        assert stricter.minimum_cohort == 5
        assert stricter.outlook.warnings

    with_sites(tmp_path, scene)


def test_a_plain_run_has_terms_without_segments(tmp_path: Path) -> None:
    async def scene(hospital: Hospital, made: Coordinator) -> None:
        started = await made.runs.start(RUN.format(rounds=1, federation="quorum = 2"), actor="admin:alice")
        found = terms_now(hospital, made)
        assert found.outlook.aggregation == "plain"
        assert found.outlook.segments == started.segments == ()
        assert terms_of(row_of(hospital), made.runs.state(None), None).minimum_cohort == 0

    with_sites(tmp_path, scene)


def test_a_configuration_that_can_no_longer_be_read_is_a_warning(tmp_path: Path) -> None:
    async def scene(hospital: Hospital, made: Coordinator) -> None:
        await made.runs.start(CONFIGURATION, actor="admin:alice")
        broken = replace(row_of(hospital), configuration_toml="[run")
        found = terms_of(broken, made.runs.state(None), made.registry.signed_list())
        (warning,) = found.outlook.warnings
        assert warning.startswith("configuration: ")
        assert (found.minimum_cohort, found.min_contributors) == (3, 0)

    with_sites(tmp_path, scene)
