"""The terms of an attempt, the board, and what sites are told in its steps."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pytest

from coordinator import events as ev
from coordinator.board import Board, content_of
from coordinator.driver import Driver
from coordinator.errors import ConflictError, TransitionError
from coordinator.instructions import instruction_for, seconds_left
from coordinator.records import RunRow
from coordinator.secure_round import setting_for
from coordinator.settling import settle
from coordinator.state import RunState, Step
from fedmepd.artefacts import SegmentValues, dump_segment
from fedmepd.layout import Layout, build_layout
from fedmepd.plan import parse_plan
from fedmepd.runspec import RunSpec, make_spec
from protos.terms import (
    Advertise,
    Advertised,
    ArtefactRef,
    Confirm,
    Confirmed,
    Mask,
    Phase,
    ReportBody,
    SealedShare,
    SeedShare,
    Share,
    Shared,
    SurvivorSignature,
    Unmask,
    Unmasked,
    Wait,
)
from security.membership import Member, MembershipList
from tests.coordinator.memory_store import MemoryStore
from tests.coordinator.secure_at_hand import ALL, OWN, POLICY, SecureScene, secure_run

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHAPES = {"encoders.flair.a.weight": (4, 2), "decoder.level1.out.weight": (3, 2, 1, 1, 1)}


class Blobs:
    """Segment artefacts whose counts are chosen."""

    def __init__(self, layout: Layout, counts: dict[str, list[int]]) -> None:
        self._contents = {
            segment.name: dump_segment(
                SegmentValues(
                    plain=np.ones(segment.plain_values, np.float32),
                    filters=np.ones(segment.filter_values, np.float32),
                    counts=np.resize(np.array(counts.get(segment.name, [0])), segment.slots),
                )
            )
            for segment in layout.segments
        }

    def open(self, ref: ArtefactRef) -> BytesIO:
        name = bytes.fromhex(ref.sha256).rstrip(b"\0").decode().rstrip("0123456789")
        return BytesIO(self._contents[name])


def spec_of(state: RunState, method: str = "fedmepd", contribute: str = "shared") -> RunSpec:
    data = {
        "run": {"name": "run", "rounds": 2, "methods": [method]},
        "personalisation": {"contribute": contribute},
    }
    plan = parse_plan(data, source="test")
    own = {site: (*names, "t1ce", "t2", "t1", "flair") for site, names in OWN.items()}
    made = make_spec(plan, run_id="run", sites={site: sorted(set(names)) for site, names in own.items()})
    return replace(made, sites=dict(state.sites))


def listed(**changes: tuple[str, ...]) -> MembershipList:
    members = tuple(
        Member(
            site=site,
            identity_key=site.encode().ljust(32, b"\0"),
            modalities=tuple(sorted(changes.get(site, own))),
            valid_from=NOW,
            valid_until=NOW.replace(year=2027),
        )
        for site, own in OWN.items()
    )
    return MembershipList(consortium="test", version=7, issued_at=NOW, minimum_cohort=3, members=members)


@pytest.fixture
def layout() -> Layout:
    return build_layout(SHAPES, ("flair", "t1"), encoders=True, decoder=True)


def settled(
    layout: Layout,
    membership: MembershipList | None,
    counts: dict[str, list[int]],
    method: str = "fedmepd",
    contribute: str = "shared",
) -> tuple[RunState, Advertise]:
    state = secure_run().to(Phase.ADVERTISE).state
    spec, blobs = spec_of(state, method, contribute), Blobs(layout, counts)
    terms = settle(blobs, state, spec, layout, membership, NOW)  # type: ignore[arg-type]
    assert state.round is not None
    return replace(state, round=replace(state.round, terms=terms)), terms.task


def test_terms_say_what_the_round_is_about(layout: Layout) -> None:
    state, task = settled(layout, listed(), {})
    assert [one.site for one in task.roster] == list(ALL)
    assert (task.membership_version, task.membership_digest) == (7, listed().digest)
    assert [one.name for one in task.broadcast] == ["modality/flair", "modality/t1", "common", "anchors", "start"]
    assert task.previous == ALL
    assert task.context == setting_for(state, spec_of(state)).context.hex()


def test_the_least_open_count_is_read_from_the_end_of_the_artefacts(layout: Layout) -> None:
    _, task = settled(layout, listed(), {"common": [6, 3, 5]})
    assert {one.name: one.least_open for one in task.segments}["common"] == 5, "3 is closed: four are needed"
    _, task = settled(layout, listed(), {"common": [3, 2, 0]})
    assert {one.name: one.least_open for one in task.segments}["common"] == 0, "none is open"


@pytest.mark.parametrize(("method", "contribute"), [("fedmepd", "all"), ("fedavg-encoders", "shared")])
def test_where_every_site_contributes_every_slot_no_count_can_close_a_segment(
    layout: Layout, method: str, contribute: str
) -> None:
    _, task = settled(layout, listed(), {"common": [6, 3, 5]}, method, contribute)
    assert {one.least_open for one in task.segments} == {0}


def test_a_site_is_in_it_as_the_list_has_it_or_not_at_all(layout: Layout) -> None:
    _, task = settled(layout, listed(b=("flair",)), {})
    assert [one.site for one in task.roster] == list("acdef")
    with pytest.raises(ConflictError, match="no site of the round"):
        settled(layout, replace(listed(), members=()), {})
    with pytest.raises(ConflictError, match="no signed membership list"):
        settled(layout, None, {})


# -- the board ------------------------------------------------------------------------------------------------------


def said(scene: SecureScene, step: Step, site: str) -> bytes:
    others = [peer for peer in ALL if peer != site]
    bodies: dict[Step, ReportBody] = {
        Step.ADVERTISED: Advertised(
            channel_key=site.encode() * 32, mask_key=b"m" * 32, minimum=3, colluders=0, signature=b"s" * 64
        ),
        Step.SHARED: Shared(
            commitments=(b"c" * 32,),
            shares=tuple(SealedShare(site=peer, sealed=f"{site} to {peer}".encode()) for peer in others),
        ),
        Step.CONFIRMED: Confirmed(signature=site.encode() * 64),
        Step.UNMASKED: Unmasked(seeds=(SeedShare(site=site, segment="common", share=b"x" * 33),), keys=()),
    }
    return content_of(scene.id, bodies[step])


def board_of(scene: SecureScene) -> Board:
    """A board with what the scene's sites have said, as a coordinator has it that came up again."""
    return Board(
        scene.id, {step: {site: said(scene, step, site) for site in sites} for step, sites in scene.board().items()}
    )


def test_each_step_tells_a_site_what_the_others_said() -> None:
    scene = secure_run().to(Phase.ADVERTISE)
    scene.settle()

    def task(site: str) -> object:
        return instruction_for(scene.state, board_of(scene), site, scene.now).task

    assert isinstance(task("a"), Advertise)
    scene.advertise(but="a")
    assert isinstance(task("b"), Wait)
    scene.advertise()
    share = task("a")
    assert isinstance(share, Share)
    assert [one.site for one in share.keys] == list(ALL)
    assert share.keys[1].channel_key == b"b" * 32
    scene.share(but="f")
    scene.tell(ev.SiteDeclined(site="f", round=scene.id, reason="no"))
    mask = task("b")
    assert isinstance(mask, Mask)
    assert mask.sharers == tuple("abcde")
    assert mask.shares == tuple(SealedShare(site=s, sealed=f"{s} to b".encode()) for s in "acde")
    assert isinstance(task("f"), Wait)
    scene.mask()
    assert task("b") == mask, "it is asked for the upload until that is whole"
    scene.upload()
    assert task("a") == Confirm(survivors=tuple("abcde"))
    scene.confirm()
    assert task("a") == Unmask(signatures=tuple(SurvivorSignature(site=s, signature=s.encode() * 64) for s in "abcde"))


@pytest.mark.parametrize("phase", [Phase.ADVERTISE, Phase.SHARE, Phase.MASKED, Phase.CONSISTENCY, Phase.UNMASK])
def test_a_revision_is_the_same_after_a_restart_and_another_with_other_messages(phase: Phase) -> None:
    scene = secure_run().to(phase)
    if phase is Phase.ADVERTISE:
        scene.settle()
    one, two = (instruction_for(scene.state, board_of(scene), "a", scene.now + late) for late in (0, 5))
    assert one == replace(two, seconds_left=one.seconds_left)
    assert one.revision != instruction_for(scene.state, board_of(scene), "b", scene.now).revision or (
        phase is not Phase.MASKED
    )
    if phase is Phase.SHARE:
        forged = board_of(scene)
        forged.put(Step.ADVERTISED, "b", said(scene, Step.ADVERTISED, "c"))
        assert instruction_for(scene.state, forged, "a", scene.now).revision != one.revision


def test_the_time_left_of_a_step_is_told_and_of_an_upload_is_not() -> None:
    scene = secure_run().to(Phase.SHARE)
    assert instruction_for(scene.state, board_of(scene), "a", scene.now + 10).seconds_left == POLICY.step_s - 10
    assert seconds_left(scene.state, scene.now + 10) == POLICY.step_s - 10
    scene.share()
    assert instruction_for(scene.state, board_of(scene), "a", scene.now + 10).seconds_left == 0.0


def test_a_board_of_another_attempt_makes_no_tasks() -> None:
    scene = secure_run().to(Phase.SHARE)
    with pytest.raises(TransitionError):
        Board(replace(scene.id, attempt=2)).task(scene.current, "a")


def test_messages_are_in_the_database_with_the_state_and_back_after_a_restart() -> None:
    store, scene = MemoryStore(), secure_run().to(Phase.ADVERTISE)
    row = RunRow(
        run="run", name="run", method="fedmepd", created=0.0, ended=None, status="", configuration_toml="", state=""
    )
    scene.settle()

    async def first() -> None:
        driver = Driver(store, lambda _, __: None, clock=lambda: scene.now)  # type: ignore[arg-type]
        await driver.open()
        await driver.begin(scene.state, row)
        for site in ALL[:3]:
            event = replace(scene.advertised(site), content=said(scene, Step.ADVERTISED, site))
            await driver.tell(event)
        assert driver.board.sites(Step.ADVERTISED) == ALL[:3]
        await driver.close()

    async def second() -> None:
        driver = Driver(store, lambda _, __: None, clock=lambda: scene.now)  # type: ignore[arg-type]
        await driver.open()
        assert driver.board.sites(Step.ADVERTISED) == ALL[:3]
        for site in ALL[3:]:
            event = replace(scene.advertised(site), content=said(scene, Step.ADVERTISED, site))
            await driver.tell(event)
        task = driver.instruction("a").task
        assert isinstance(task, Share)
        assert [one.channel_key for one in task.keys] == [site.encode() * 32 for site in ALL]
        assert set(store.content.steps[scene.id]) == {"advertised"}
        await driver.tell(ev.Aborted(reason="enough"))
        assert store.content.steps == {}
        await driver.close()

    asyncio.run(first())
    asyncio.run(second())
