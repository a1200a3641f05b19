"""A site that cheats, against a real coordinator over TLS and four honest sites: who notices, what it costs whom."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grpc import aio

from coordinator.state import RunStatus
from protos.terms import (
    Advertise,
    ArtefactRef,
    Confirm,
    KeyShare,
    Mask,
    Masked,
    Share,
    Submitted,
    Train,
    Unmask,
)
from security.secagg.share import _seal
from security.shamir import PRIME
from tests.federation.attacks.real_agents import RealAgent
from tests.federation.secure_site import SecureSite
from tests.federation.test_secure_rounds_over_tls import POLICY, ROUND, SITES, Play, code, play, to_step

MALFORMED = PRIME.to_bytes(33, "big")  # no number below p (SPEC 12.2)


@pytest.fixture(autouse=True)
def _cheap_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("security.sealed._LOG2_COST", 10)


class Cheat(SecureSite):
    """Says in each step what `says` makes of what an honest site would say."""

    def __init__(self, site, key, **says):
        super().__init__(site, key)
        self.says = says

    def shared(self, task):
        return self.says.get("shared", lambda _site, made: made)(self, super().shared(task))

    def unmasked(self, task):
        return self.says.get("unmasked", lambda _site, made: made)(self, super().unmasked(task))


def cheat(stage, name, **says):
    honest = stage.sites[name]
    stage.sites[name] = Cheat(honest.site, honest.key, **says)
    return stage.sites[name]


async def refused(call, status, words):
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    assert code(caught) == status, caught.value.details()
    assert words in str(caught.value.details())


# -- what is sealed -------------------------------------------------------------------------------------------------


def to_all(content):
    """Return a bundle in which everybody gets something else, of the right length."""

    def say(site, made):
        shares = tuple(replace(one, sealed=content(site, one)) for one in made.shares)
        return replace(made, shares=shares)

    return say


def noise(_site, share):
    return bytes(len(share.sealed))


def malformed_shares(site, share):
    return _seal(site.state, site.state.keys, share.site, MALFORMED * 5)


def test_a_bundle_that_one_site_cannot_open_costs_nothing(tmp_path: Path) -> None:
    def say(site, made):
        shares = tuple(
            replace(one, sealed=malformed_shares(site, one)) if one.site == "a" else one for one in made.shares
        )
        return replace(made, shares=shares)

    async def scene(stage: Play) -> None:
        await stage.start()
        cheat(stage, "d", shared=say)
        assert await stage.all_take_part() is RunStatus.COMPLETED
        assert "d" not in stage.sites["a"].state.shares
        assert "d" in stage.sites["b"].state.shares
        assert stage.lead.sums == [stage.clear_sum(SITES)]
        assert await stage.notes("round.fail") == []

    play(tmp_path, scene)


@pytest.mark.parametrize("content", [noise, malformed_shares], ids=["noise", "malformed shares"])
def test_a_bundle_that_nobody_can_open_fails_the_round_and_names_its_sender(tmp_path: Path, content: object) -> None:
    """Nobody knows its seed, and its input is in the sum: the round is lost, and the run goes on without it."""

    async def scene(stage: Play) -> None:
        await stage.start(rounds=2)
        cheat(stage, "d", shared=to_all(content))
        await stage_through(stage)
        assert await stage.all_take_part() is RunStatus.COMPLETED
        ((_, _, details),) = await stage.notes("round.fail")
        assert "the seed of d for segment common has 1 shares, 4 are needed" in details["reason"]
        assert stage.lead.sums == [stage.clear_sum("abce", 2)]
        assert [subject for subject, _, _ in await stage.notes("site.suspended")] == ["d"]

    play(tmp_path, scene)


def test_another_site_s_bundle_under_one_s_own_name_opens_for_nobody(tmp_path: Path) -> None:
    """b and d own the same modalities, so that lengths agree; who sent it is part of what is sealed (SPEC 10.4)."""

    async def scene(stage: Play) -> None:
        await stage.start(rounds=2)
        await to_step(stage, Share)
        await stage.sites["b"].after(Share)
        copied = {one.site: one.sealed for one in stage.made.runs.driver.board.shared("b").shares}
        copied["b"] = copied.pop("d")
        cheat_with_state(stage, "d", shared=to_all(lambda _site, one: copied[one.site]))
        await asyncio.gather(*(stage.sites[name].after(Share) for name in "acde"))
        for kind in (Mask, Confirm, Unmask):
            await asyncio.gather(*(site.after(kind) for site in stage.sites.values()))
        assert all("d" not in stage.sites[name].state.shares for name in "abce")
        assert await stage.all_take_part() is RunStatus.COMPLETED
        ((_, _, details),) = await stage.notes("round.fail")
        assert "the seed of d for segment common has 1 shares" in details["reason"]
        assert stage.lead.sums == [stage.clear_sum("abce", 2)]
        assert [subject for subject, _, _ in await stage.notes("site.suspended")] == ["d"]

    play(tmp_path, scene)


def cheat_with_state(stage, name, **says):
    """Let a site that has taken part honestly begin to cheat."""
    before = stage.sites[name]
    bad = cheat(stage, name, **says)
    for field in ("state", "spec", "spec_sha256", "samples", "inputs", "masked"):
        setattr(bad, field, getattr(before, field))
    return bad


async def stage_through(stage: Play) -> None:
    """Take all sites through the first round."""
    for kind in (Train, Advertise, Share, Mask, Confirm, Unmask):
        await asyncio.gather(*(site.after(kind) for site in stage.sites.values()))


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (lambda _, made: replace(made, shares=(replace(made.shares[0], sealed=b"x"), *made.shares[1:])), "not of"),
        (lambda _, made: replace(made, commitments=made.commitments[1:]), "has not 4 commitments"),
        (lambda _, made: replace(made, shares=made.shares[:-1]), "not for the other sites"),
    ],
    ids=["length", "commitments", "receivers"],
)
def test_a_malformed_bundle_is_refused_and_its_sender_is_out(tmp_path: Path, say: object, words: str) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        bad = cheat(stage, "d", shared=say)
        await to_step(stage, Share)
        found = await bad.site.until(Share)
        await refused(bad.report(ROUND, bad.shared(found.task)), "INVALID_ARGUMENT", words)
        bad.site.sequence -= 1
        assert await stage.all_take_part() is RunStatus.COMPLETED
        assert stage.lead.sums == [stage.clear_sum("abce", closed=["modality/t2"])]
        ((subject, outcome, details),) = await stage.notes("round.drop")
        assert (subject, outcome, words in details["reason"]) == ("d", "declined", True)

    play(tmp_path, scene)


def test_commitments_to_other_seeds_fail_the_round_and_name_their_sender(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start(rounds=2)
        cheat(stage, "d", shared=lambda _, made: replace(made, commitments=(b"\1" * 32,) * 4))
        await stage_through(stage)
        assert await stage.all_take_part() is RunStatus.COMPLETED
        ((_, _, details),) = await stage.notes("round.fail")
        assert "the seed of d for segment common cannot be recovered" in details["reason"]
        assert stage.lead.sums == [stage.clear_sum("abce", 2)]
        assert [subject for subject, _, _ in await stage.notes("site.suspended")] == ["d"]

    play(tmp_path, scene)


# -- answers --------------------------------------------------------------------------------------------------------


def first_seed(**changes):
    return lambda _, made: replace(made, seeds=(replace(made.seeds[0], **changes), *made.seeds[1:]))


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (first_seed(share=MALFORMED), "no number below p"),
        (first_seed(share=bytes(32)), "Unmasked.seeds[0].share"),
        (first_seed(segment="modality/t2"), "for segment modality/t2 that is not wanted"),
        (lambda _, made: replace(made, keys=(KeyShare(site="a", share=bytes(33)),)), "is among the seeds too"),
    ],
    ids=["value", "length", "segment", "kind"],
)
def test_a_malformed_answer_is_refused_and_the_others_open_the_sum(tmp_path: Path, say: object, words: str) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        bad = cheat(stage, "d", unmasked=say)
        await to_step(stage, Unmask)
        found = await bad.site.until(Unmask)
        await refused(bad.report(ROUND, bad.unmasked(found.task)), "INVALID_ARGUMENT", words)
        bad.says = {}
        bad.site.sequence -= 1
        bad.site.revision = 0
        assert await stage.all_take_part() is RunStatus.COMPLETED
        assert stage.lead.sums == [stage.clear_sum(SITES)]

    play(tmp_path, scene)


def test_a_liar_is_named_and_costs_nothing(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        stage.sites["d"].lies = True
        assert await stage.all_take_part() is RunStatus.COMPLETED
        assert stage.lead.sums == [stage.clear_sum(SITES)]
        assert [subject for subject, _, _ in await stage.notes("site.lied")] == ["d"]
        assert await stage.notes("site.suspended") == []

    play(tmp_path, scene)


def test_more_liars_than_the_threshold_allows_fail_the_round(tmp_path: Path) -> None:
    """Five sites need four true shares; two lie, and nobody can tell which two: nothing is opened."""

    async def scene(stage: Play) -> None:
        await stage.start()
        for name in "de":
            stage.sites[name].lies = True
        await stage_through(stage)
        assert await stage.over() is not RunStatus.RUNNING
        (failed, *_) = await stage.notes("round.fail")
        assert "cannot be recovered: wrong shares were dealt or answered" in failed[2]["reason"]
        assert stage.lead.sums == []
        assert await stage.notes("site.lied") == [], "nobody is accused of what others may have done"

    play(tmp_path, scene)


# -- masked input ---------------------------------------------------------------------------------------------------


def longer(manifest):
    return replace(manifest, vector=replace(manifest.vector, size=manifest.vector.size + 4))


def shorter(manifest):
    *rest, last = manifest.segments
    size = manifest.vector.size - 4
    return replace(
        manifest,
        segments=(*rest, replace(last, values=last.values - 1)),
        vector=replace(manifest.vector, size=size),
    )


def of_another_segment(manifest):
    return replace(manifest, segments=(replace(manifest.segments[0], name="modality/t2"), *manifest.segments[1:]))


@pytest.mark.parametrize("wrong", [longer, shorter, of_another_segment])
def test_a_masked_vector_of_the_wrong_form_is_refused_and_its_sender_is_out(tmp_path: Path, wrong: object) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        await to_step(stage, Mask)
        bad = stage.sites["d"]
        await bad.site.until(Mask)
        manifest, _ = bad.site.contribution()
        await refused(bad.report(ROUND, Masked(manifest=wrong(manifest))), "INVALID_ARGUMENT", "")
        bad.site.sequence -= 1
        assert await stage.all_take_part() is RunStatus.COMPLETED
        assert stage.lead.sums == [stage.clear_sum("abce")]
        assert [subject for subject, _, _ in await stage.notes("round.drop")] == ["d"]

    play(tmp_path, scene)


def test_bytes_that_were_not_announced_and_half_an_upload_are_no_input(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.start()
        await to_step(stage, Mask)
        bad = stage.sites["d"]
        await bad.site.until(Mask)
        manifest, content = bad.site.contribution()
        await bad.report(ROUND, Masked(manifest=manifest))
        other = ArtefactRef(sha256=hashlib.sha256(b"other").hexdigest(), size=len(content))
        await refused(bad.site.upload(other, content), "FAILED_PRECONDITION", "not wanted")
        await refused(bad.site.upload(manifest.vector, content[::-1]), "DATA_LOSS", "")
        await bad.site.upload(manifest.vector, content, stop=len(content) // 2)
        await refused(bad.report(ROUND, Submitted(vector=manifest.vector)), "FAILED_PRECONDITION", "not complete")
        bad.site.sequence -= 1
        bad.leaves_at, bad.site.revision = Mask, 0
        assert await stage.all_take_part() is RunStatus.COMPLETED
        assert stage.lead.sums == [stage.clear_sum("abce")]

    play(tmp_path, scene)


def test_a_second_masked_vector_is_refused(tmp_path: Path) -> None:
    """Two inputs under the same masks would differ by what the site changed: nothing that it may choose later."""

    async def scene(stage: Play) -> None:
        await stage.start()
        await to_step(stage, Mask)
        bad = stage.sites["d"]
        await bad.site.until(Mask)
        (manifest, _), (second, content) = bad.site.contribution(1), bad.site.contribution(2)
        await bad.report(ROUND, Masked(manifest=manifest))
        await bad.report(ROUND, Masked(manifest=second))
        await refused(bad.site.upload(second.vector, content), "FAILED_PRECONDITION", "not wanted")

    play(tmp_path, scene)


def test_every_site_is_who_its_certificate_says(tmp_path: Path) -> None:
    """A report names no site: what d signs with e's key counts as d's, and does not hold."""

    async def scene(stage: Play) -> None:
        await stage.start(policy=POLICY)
        await to_step(stage, Advertise)
        bad = stage.sites["d"]
        found = await bad.site.until(Advertise)
        made = await bad.advertised(found.task, ROUND)
        assert bad.state is not None
        forged = stage.sites["e"].key.sign(bad.state.advertisement.signed(bad.state.setting.context))
        await refused(
            bad.report(ROUND, replace(made, signature=forged)), "INVALID_ARGUMENT", "keys of d are not signed"
        )

    play(tmp_path, scene)


# -- an agent whose trainer went astray -----------------------------------------------------------------------------


def test_an_agent_with_an_update_that_is_none_is_out_and_the_others_go_on(tmp_path: Path) -> None:
    async def scene(stage: Play) -> None:
        await stage.sites.pop("e").site.close()
        agent = RealAgent(stage, "e")
        agent.tools.training.trainer.spoil = lambda words: np.where(words == words[0], 1 << 31, words)
        await stage.start()
        working = asyncio.create_task(agent.work())
        assert await stage.all_take_part() is RunStatus.COMPLETED
        assert await working == 0
        assert stage.lead.sums == [stage.clear_sum("abcd", closed=["modality/t2"])]
        ((subject, outcome, details),) = await stage.notes("round.drop")
        assert (subject, outcome) == ("e", "declined")
        assert "update: the contribution has a value out of range in segment modality/flair" in details["reason"]
        assert agent.states == []

    play(tmp_path, scene)
