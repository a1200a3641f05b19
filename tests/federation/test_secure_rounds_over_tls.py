"""Rounds with secure aggregation over real TLS: sums equal those in clear bit for bit, whoever leaves when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from coordinator import persistence
from coordinator.errors import ConfigError, StorageError
from coordinator.server import Coordinator
from coordinator.state import RunStatus
from coordinator.summing import Summing
from fedmepd.aggregation import Accumulator
from fedmepd.artefacts import dump_sum, parse_contribution
from protos.terms import (
    Advertise,
    Confirm,
    Confirmed,
    KeyShare,
    Mask,
    Phase,
    RoundId,
    Share,
    Train,
    Trained,
    Unmask,
)
from security.folders import IdentityFolder
from security.identity import Role
from tests.federation.hospital import SECURE_RUN, Hospital, IdleLead, Site
from tests.federation.secure_site import SecureSite

SITES = {
    "a": ("flair", "t1ce"),
    "b": ("flair", "t1ce", "t1"),
    "c": ("flair", "t1"),
    "d": ("flair", "t1ce", "t1"),
    "e": ("flair", "t1ce", "t1", "t2"),
}
POLICY = "quorum = 3\ngrace_s = 0.0"
ROUND = RoundId(run="test", round_number=1)


class Play:
    """One coordinator, its lead and its sites."""

    def __init__(self, folder: Path, cohort: int = 3) -> None:
        self.hospital = Hospital(folder, SITES, minimum_cohort=cohort)
        self.hospital.found()
        self.lead = IdleLead(folder / "lead")
        self.made: Coordinator
        self.sites: dict[str, SecureSite] = {}

    async def start(self, rounds: int = 1, policy: str = POLICY) -> None:
        await self.made.runs.start(SECURE_RUN.format(rounds=rounds, federation=policy), actor="test")

    def connect(self, bare: dict[str, Site]) -> None:
        for name, site in bare.items():
            known = self.sites.get(name)
            if known is None:
                self.sites[name] = SecureSite(site, self.folder_of(name).read_identity_key(None))
            else:
                site.sequence, known.site = known.site.sequence, site

    def folder_of(self, name: str) -> IdentityFolder:
        return IdentityFolder(self.hospital.folder / "members" / name)

    async def over(self) -> RunStatus:
        version = 0
        while not self.made.runs.state(None).status.terminal:
            version = await self.made.runs.changed(version, 5.0)
        return self.made.runs.state(None).status

    async def all_take_part(self) -> RunStatus:
        await asyncio.gather(*(site.take_part() for site in self.sites.values()))
        return await self.over()

    def clear_sum(self, names: Iterable[str], number: int = 1, closed: Iterable[str] = ("modality/t2",)) -> bytes:
        """Sum the contributions of some sites in clear, without the segments that stay closed."""
        total = Accumulator(self.lead.layout)
        for name in names:
            data = self.sites[name].inputs[number].astype("<u4").tobytes()
            total.add(parse_contribution(data, self.lead.layout, SITES[name], site=name))
        for segment in closed:
            total.sums.pop(segment, None)
        return dump_sum(total)

    async def notes(self, action: str) -> list[tuple[str, str, dict[str, str]]]:
        def read() -> list[tuple[str, str, dict[str, str]]]:
            with self.made.runs._store.transaction() as transaction:
                rows = transaction.audit(after=-1, limit=1000)
            return [(row.subject, row.outcome, row.details) for row in rows if row.action == action]

        return await asyncio.to_thread(read)


def play(folder: Path, scene: Callable[[Play], Awaitable[None]], cohort: int = 3) -> None:
    async def run() -> None:
        stage = Play(folder, cohort)
        async with stage.hospital.serving(stage.lead) as stage.made:
            stage.connect(await stage.hospital.open(stage.made))
            try:
                await scene(stage)
            finally:
                for site in stage.sites.values():
                    await site.site.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def code(error: pytest.ExceptionInfo[aio.AioRpcError]) -> str:
    return error.value.code().name


def test_the_sum_is_that_in_clear_and_a_thin_segment_stays_closed(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start(rounds=2)
        assert await stage.all_take_part() is RunStatus.COMPLETED
        assert stage.lead.sums == [stage.clear_sum(SITES, number) for number in (1, 2)]
        for part in stage.lead.parts[1:]:
            assert part.sites == tuple(SITES)
            assert dict(part.contributors) == {"modality/flair": 5, "modality/t1ce": 4, "modality/t1": 4, "common": 5}
        last = stage.made.runs.state(None).round
        assert last is not None
        assert list(last.closed) == ["modality/t2"]
        assert [subject for subject, outcome, _ in await stage.notes("round.segment") if outcome == "closed"] == [
            "modality/t2"
        ] * 2
        steps = [outcome for _, outcome, details in await stage.notes("round.step") if details["round"] == "1"]
        assert steps == ["advertise", "share", "masked", "consistency", "unmask"]

    play(tmp_path, scene)


@pytest.mark.parametrize("kind", [Train, Advertise, Share, Mask, Confirm, Unmask], ids=lambda kind: kind.__name__)
def test_a_site_may_leave_at_any_step(tmp_path: Path, kind: type) -> None:
    async def scene(stage: Play) -> None:
        await stage.start(rounds=2)
        stage.sites["c"].leaves_at = kind
        assert await stage.all_take_part() is RunStatus.COMPLETED
        within = SITES if kind in (Confirm, Unmask) else [name for name in SITES if name != "c"]
        assert stage.lead.sums == [stage.clear_sum(within), stage.clear_sum(SITES, 2)]
        assert stage.lead.parts[1].sites == tuple(within)
        assert [subject for subject, _, _ in await stage.notes("round.drop")] == ["c"]

    play(tmp_path, scene)


def test_wrong_shares_of_one_site_do_not_stop_the_others(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        stage.sites["a"].lies = True
        assert await stage.all_take_part() is RunStatus.COMPLETED
        assert stage.lead.sums == [stage.clear_sum(SITES)]

    play(tmp_path, scene)


def test_an_input_that_is_no_contribution_fails_the_round_and_the_next_one_has_a_new_model(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start(rounds=2, policy=POLICY + "\nretries = 3")
        stage.sites["b"].spoils = True
        for site in stage.sites.values():
            await site.after(Train)
        await asyncio.gather(*(site.after(Unmask) for site in stage.sites.values()))
        stage.sites["b"].spoils = False
        assert await stage.all_take_part() is RunStatus.COMPLETED
        assert stage.lead.sums == [stage.clear_sum(SITES, 2)]
        assert [part.sum is None for part in stage.lead.parts] == [True, True, False]
        (failed,) = await stage.notes("round.fail")
        assert "sum of segment common" in failed[2]["reason"]
        assert stage.made.runs.state(None).reason == "1 rounds failed on the way"

    play(tmp_path, scene)


def test_storage_that_fails_while_the_sum_is_made_costs_no_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persistence, "_FIRST_S", 0.01)
    total, faults = Summing.total, [StorageError("the object store is away"), OSError(28, "no space left")]

    def failing(self: Summing, *args: Any) -> object:
        if faults:
            raise faults.pop()
        return total(self, *args)

    monkeypatch.setattr(Summing, "total", failing)

    async def scene(stage: Play) -> None:
        await stage.start()
        assert await stage.all_take_part() is RunStatus.COMPLETED
        assert stage.lead.sums == [stage.clear_sum(SITES)]
        assert await stage.notes("round.fail") == []

    play(tmp_path, scene)
    assert faults == []


def test_a_restart_after_every_step_loses_nothing(tmp_path: Path) -> None:
    """All have answered a step when the coordinator goes; what they said is in its database."""
    stage = Play(tmp_path)

    async def run() -> None:
        async with stage.hospital.serving(stage.lead) as stage.made:
            stage.connect(await stage.hospital.open(stage.made))
            await stage.start()
            await step(Train)
        for kind in (Advertise, Share, Mask, Confirm, Unmask):
            async with stage.hospital.serving(stage.lead) as stage.made:
                reconnect()
                await step(kind)
        async with stage.hospital.serving(stage.lead) as stage.made:
            reconnect()
            assert await stage.all_take_part() is RunStatus.COMPLETED
            for site in stage.sites.values():
                await site.site.close()
        assert stage.lead.sums[-1] == stage.clear_sum(SITES)
        assert len(set(stage.lead.sums)) == 1
        assert {part.round_number for part in stage.lead.parts} == {0, 1}

    def reconnect() -> None:
        address = stage.made.addresses[0]
        stage.connect({name: Site(stage.folder_of(name), address, own) for name, own in SITES.items()})

    async def step(kind: type) -> None:
        await asyncio.gather(*(site.after(kind) for site in stage.sites.values()))
        for site in stage.sites.values():
            await site.site.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_input_that_comes_after_the_survivors_are_settled_is_refused(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        for kind in (Train, Advertise, Share):
            await asyncio.gather(*(site.after(kind) for site in stage.sites.values()))
        late = stage.sites["c"]
        kept: list[tuple[object, bytes]] = []

        async def keep_back(ref: object, content: bytes) -> int:
            kept.append((ref, content))
            raise InterruptedError

        upload, late.site.upload = late.site.upload, keep_back  # type: ignore[method-assign,assignment]
        with pytest.raises(InterruptedError):
            await late.after(Mask)
        await asyncio.gather(*(site.after(Mask) for name, site in stage.sites.items() if name != "c"))
        late.site.upload = upload  # type: ignore[method-assign]
        late.leaves_at = Mask
        late.site.revision = 0
        await late.one()
        current = stage.made.runs.state(None).round
        assert current is not None
        assert (current.phase, current.survivors) == (Phase.CONSISTENCY, ("a", "b", "d", "e"))
        ((ref, content),) = kept
        with pytest.raises(aio.AioRpcError) as refused:
            await upload(ref, content)  # type: ignore[arg-type]
        assert code(refused) == "FAILED_PRECONDITION"
        assert await stage.all_take_part() is RunStatus.COMPLETED
        assert stage.lead.sums == [stage.clear_sum("abde")]

    play(tmp_path, scene)


def test_a_site_that_demands_more_than_there_is_is_left_out(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        stage.sites["d"].minimum = 7
        assert await stage.all_take_part() is RunStatus.COMPLETED
        assert stage.lead.sums == [stage.clear_sum("abce")]
        ((subject, outcome, details),) = await stage.notes("round.drop")
        assert (subject, outcome) == ("d", "declined")
        assert "demands 7 sites" in details["reason"]

    play(tmp_path, scene)


async def to_step(stage: Play, kind: type) -> None:
    """Bring all sites to where they are asked for a step."""
    for before in (Train, Advertise, Share, Mask, Confirm, Unmask):
        if before is kind:
            return
        await asyncio.gather(*(site.after(before) for site in stage.sites.values()))


async def forge_keys(site: SecureSite, task: Advertise) -> object:
    made = await site.advertised(task, ROUND)
    return type(made)(
        channel_key=made.mask_key,
        mask_key=made.channel_key,
        minimum=made.minimum,
        colluders=made.colluders,
        signature=made.signature,
    )


async def weak_demands(site: SecureSite, task: Advertise) -> object:
    site.minimum = 3
    return await site.advertised(task, ROUND)


async def short_bundle(site: SecureSite, task: Share) -> object:
    made = site.shared(task)
    return type(made)(commitments=made.commitments, shares=made.shares[1:])


async def other_survivors(site: SecureSite, _: Confirm) -> object:
    return Confirmed(signature=site.key.sign(b"others"))


async def key_of_a_survivor(site: SecureSite, task: Unmask) -> object:
    made = site.unmasked(task)
    return type(made)(seeds=made.seeds[4:], keys=(KeyShare(site="a", share=made.seeds[0].share),))


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        (Advertise, forge_keys, "not signed"),
        (Advertise, weak_demands, "demands 3 sites"),
        (Share, short_bundle, "not for the other sites"),
        (Confirm, other_survivors, "has not signed these survivors"),
        (Unmask, key_of_a_survivor, "did not drop out"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_report_that_breaks_a_rule_is_refused_and_only_its_site_is_out(
    tmp_path: Path, kind: type, body: Callable[[SecureSite, object], Awaitable[object]], words: str
) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        await to_step(stage, kind)
        bad = stage.sites["e"]
        found = await bad.site.until(kind)
        with pytest.raises(aio.AioRpcError) as refused:
            await bad.report(ROUND, await body(bad, found.task))  # type: ignore[arg-type]
        assert code(refused) == "INVALID_ARGUMENT"
        assert words in str(refused.value.details())
        bad.site.sequence -= 1
        assert await stage.all_take_part() is RunStatus.COMPLETED
        within = "abcde" if kind in (Confirm, Unmask) else "abcd"
        closed = ["modality/t1ce", "modality/t1", "modality/t2"] if body is weak_demands else ["modality/t2"]
        assert stage.lead.sums == [stage.clear_sum(within, closed=closed)]

    play(tmp_path, scene, cohort=4 if body is weak_demands else 3)


def test_keys_of_another_site_are_refused(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        await to_step(stage, Advertise)
        await stage.sites["a"].after(Advertise)
        copied = stage.made.runs.driver.board.advertised("a")
        thief = stage.sites["e"]
        found = await thief.site.until(Advertise)
        made = await thief.advertised(found.task, ROUND)  # type: ignore[arg-type]
        own = thief._state.advertisement
        stolen = replace(own, mask_key=copied.mask_key)
        signature = thief.key.sign(stolen.signed(thief._state.setting.context))
        with pytest.raises(aio.AioRpcError) as refused:
            await thief.report(ROUND, replace(made, mask_key=copied.mask_key, signature=signature))
        assert code(refused) == "INVALID_ARGUMENT"
        assert "keys are equal" in str(refused.value.details())

    play(tmp_path, scene)


def test_a_second_and_other_answer_is_refused(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        await to_step(stage, Advertise)
        site = stage.sites["a"]
        found = await site.site.until(Advertise)
        await site.report(ROUND, await site.advertised(found.task, ROUND))  # type: ignore[arg-type]
        with pytest.raises(aio.AioRpcError) as refused:
            await site.report(ROUND, await site.advertised(found.task, ROUND))  # type: ignore[arg-type]
        assert code(refused) == "INVALID_ARGUMENT"
        assert "another message" in str(refused.value.details())

    play(tmp_path, scene)


def test_clear_text_is_refused_in_a_secure_run(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        site = stage.sites["a"].site
        await site.until(Train)
        manifest, content = site.contribution(1)
        with pytest.raises(aio.AioRpcError) as refused:
            await site.report(ROUND, Trained(manifest=manifest, seconds=0.1))
        assert code(refused) == "INVALID_ARGUMENT"
        assert "aggregation in run test is secure" in str(refused.value.details())
        with pytest.raises(aio.AioRpcError) as unwanted:
            await site.upload(manifest.vector, content)
        assert code(unwanted) == "FAILED_PRECONDITION"

    play(tmp_path, scene)


def test_a_new_list_in_mid_round_changes_nothing_of_it(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start(rounds=2)
        await asyncio.gather(*(site.after(Train) for site in stage.sites.values()))
        await asyncio.gather(*(site.after(Advertise) for site in stage.sites.values()))
        await asyncio.to_thread(stage.hospital.sign_membership, stage.made, 2)
        assert await stage.all_take_part() is RunStatus.COMPLETED
        assert stage.lead.sums == [stage.clear_sum(SITES, number) for number in (1, 2)]

    play(tmp_path, scene)


def test_a_revoked_site_of_the_survivors_stays_in_the_sum(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        await to_step(stage, Confirm)
        await asyncio.to_thread(stage.made.registry.revoke, Role.SITE, "a", "key lost", actor="test")
        await stage.made.runs.revoked("a", "key lost")
        await asyncio.gather(*(stage.sites[name].take_part() for name in "bcde"))
        assert await stage.over() is RunStatus.COMPLETED
        assert stage.lead.sums == [stage.clear_sum(SITES)]

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("cohort", "plan", "words"),
    [
        (6, "", "needs 6 sites .* 5 take part"),
        (5, "", "min_contributors = 4 is below the signed list's minimum cohort, 5"),
        (3, "[personalisation]\nmin_contributors = 6", "only 5 sites take part"),
    ],
)
def test_a_run_whose_sums_could_never_be_opened_does_not_start(
    tmp_path: Path, cohort: int, plan: str, words: str
) -> None:
    async def scene(stage: Play) -> None:
        with pytest.raises(ConfigError, match=words):
            await stage.made.runs.start(SECURE_RUN.format(rounds=1, federation=POLICY) + plan, actor="test")

    play(tmp_path, scene, cohort)


def test_the_start_says_what_each_segment_tolerates(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        started = await stage.made.runs.start(SECURE_RUN.format(rounds=1, federation=POLICY), actor="test")
        assert {one.segment: (one.owners, one.minimum, one.threshold, one.tolerated) for one in started.segments} == {
            "modality/flair": (5, 4, 4, 1),
            "modality/t1ce": (4, 4, 4, 0),
            "modality/t1": (4, 4, 4, 0),
            "modality/t2": (1, 4, 4, -1),
            "common": (5, 4, 4, 0),
        }
        (warning,) = started.warnings
        assert "modality/t2 has 1 owners and 4 are needed" in warning
        ((_, _, details),) = await stage.notes("run.start")
        assert warning in details["warnings"]
        assert await stage.notes("run.plain") == []

    play(tmp_path, scene)


def test_a_plain_run_is_on_record_as_such(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        policy = SECURE_RUN.format(rounds=1, federation=POLICY + '\naggregation = "plain"')
        started = await stage.made.runs.start(policy, actor="test")
        assert "PLAIN AGGREGATION" in started.warnings[0]
        assert [subject for subject, _, _ in await stage.notes("run.plain")] == ["test"]

    play(tmp_path, scene)
