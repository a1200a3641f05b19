"""Rounds of secure aggregation with the sites' own files: sums are right, answers are one, crashes change nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from protos.terms import Confirm, DeclineCause, Mask, RoundId
from security.secagg import load_state
from site_agent import journal
from site_agent.errors import RefusalError, StorageError
from site_agent.secagg import keeper, records, steps
from site_agent.secagg.keeper import Keeper
from site_agent.secagg.spent import Spent
from tests.site_agent.secure_cohort import MODALITIES, NOW, OWN, ROUND, Cohort, Played, sum_of

ALL = tuple(OWN)
SECOND = RoundId(run="r", round_number=2)


@pytest.fixture(autouse=True)
def _no_disk_is_that_slow(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)  # nobody pulls a plug here


@pytest.fixture
def cohort(tmp_path):
    return Cohort(tmp_path)


def assert_right(played, survivors):
    sums = played.sums()
    assert set(sums) == {one.name for one in played.cohort.layout.segments}
    for name, (sites, total) in sums.items():
        clear = {site: played.cohort.vector(site, played.round.round_number) for site in sites}
        assert np.array_equal(total, sum_of(played.cohort, name, clear)), name
    assert sums["common"][0] == tuple(sorted(survivors))


def test_the_opened_sum_is_the_sum_of_the_clear_contributions(cohort):
    assert_right(Played(cohort).whole(ALL), ALL)


def test_nothing_that_is_said_holds_the_clear_vector_or_its_hash(cohort):
    played = Played(cohort).whole(ALL)
    for site in ALL:
        clear = cohort.vector(site)
        masked = np.frombuffer(played.masked[site], "<u4")
        assert np.mean(clear == masked) < 0.01
        said = (played.advertised[site], played.shared[site], played.confirmed[site], played.unmasked[site])
        assert cohort.knowledge(site).result.manifest.vector.sha256 not in repr(said)


def test_a_site_that_is_gone_after_it_shared_leaves_a_right_sum_of_the_others(cohort):
    rest = tuple(site for site in ALL if site != "b")
    played = Played(cohort).advertise(ALL).share(ALL).mask(rest).confirm(rest).unmask(rest)
    with pytest.raises(AssertionError):
        assert_right(played, ALL)
    assert set(played.sums()["common"][0]) == set(rest)
    for name, (sites, total) in played.sums().items():
        clear = {site: cohort.vector(site) for site in sites}
        assert np.array_equal(total, sum_of(cohort, name, clear)), name


def test_every_step_is_on_the_public_record_and_in_the_audit_log(cohort):
    Played(cohort).whole(ALL)
    record = cohort.sites["a"].steps.records.read(ROUND)
    assert (record.roster, record.advertised, record.sharers, record.survivors) == (ALL,) * 4
    assert len(record.context) == len(record.keys_context) == 64
    noted = cohort.sites["a"].notes.records
    assert [one[0] for one in noted] == [
        f"secagg.{step}" for step in ("advertised", "shared", "masked", "confirmed", "unmasked")
    ]
    assert noted[-1][3] | {"ctx0": "", "ctx1": ""} == {
        "ctx0": "",
        "ctx1": "",
        "roster": "5",
        "U1": "5",
        "U2": "5",
        "U3": "5",
    }


def test_a_bundle_that_does_not_open_is_named(cohort):
    played = Played(cohort).advertise(ALL).share(ALL)
    task = played.mask_task("a")
    damaged = tuple(replace(one, sealed=bytes(len(one.sealed))) if one.site == "c" else one for one in task.shares)
    cohort.mask("a", replace(task, shares=damaged))
    assert cohort.sites["a"].steps.records.read(ROUND).unopened == ("c",)
    assert cohort.sites["a"].notes.of("secagg.masked")[0][3]["unopened"] == "c"


# -- one answer -----------------------------------------------------------------------------------------------------


def test_each_answer_is_given_again_byte_by_byte_after_a_restart(cohort):
    played = Played(cohort).whole(ALL)
    site = cohort.sites["a"].restart()
    assert cohort.answer("a", played.task) == played.advertised["a"]
    assert cohort.answer("a", played.share_task) == played.shared["a"]
    cohort.mask("a", played.mask_task("a"))
    assert site.steps.keeper.masked(ROUND).read_bytes() == played.masked["a"]
    assert cohort.answer("a", played.confirm_task) == played.confirmed["a"]
    assert cohort.answer("a", played.unmask_task) == played.unmasked["a"]


def refused(clause, call, *arguments):
    with pytest.raises(RefusalError) as caught:
        call(*arguments)
    assert caught.value.clause == clause, caught.value
    assert caught.value.cause in (DeclineCause.POLICY, DeclineCause.STORAGE)
    return caught.value.problem


def test_another_answer_in_the_same_attempt_is_refused_for_every_step(cohort):
    played = Played(cohort).whole(ALL)
    fewer = Played(cohort, ROUND).advertise(()).share(())
    fewer.advertised = {site: said for site, said in played.advertised.items() if site != "e"}
    other = cohort.advertise(ROUND, roster=played.task.roster[:4], previous=played.task.previous)
    sharers = tuple(site for site in ALL if site != "e")
    tasks = [other, fewer.share_task, Mask(sharers=sharers, shares=()), Confirm(survivors=sharers)]
    for task in tasks:
        call = cohort.mask if isinstance(task, Mask) else cohort.answer
        refused("SPEC 11.4", call, "a", task)
        refused("SPEC 11.4", cohort.sites["a"].steps.check_repeated, task, cohort.knowledge("a"))


def test_what_is_asked_for_again_as_it_was_contradicts_nothing(cohort):
    played = Played(cohort).advertise(ALL).share(ALL)
    for task in (played.task, played.share_task, played.mask_task("a"), Confirm(survivors=ALL)):
        cohort.sites["a"].steps.check_repeated(task, cohort.knowledge("a"))


def test_a_list_that_is_published_in_the_middle_of_an_attempt_changes_nothing_of_it(cohort):
    played = Played(cohort).advertise(ALL)
    later = {"listed": cohort.list_of(2), "now": NOW + timedelta(days=30)}
    assert cohort.answer("a", played.task, **later) == played.advertised["a"]
    cohort.sites["a"].steps.check_repeated(played.task, cohort.knowledge("a", **later))
    assert cohort.answer("a", played.share_task, **later).shares


def test_a_step_without_the_one_before_is_refused(cohort):
    played = Played(cohort).advertise(ALL)
    refused("SPEC 11.4", cohort.mask, "a", Mask(sharers=ALL, shares=()))
    refused("SPEC 11.4", cohort.answer, "a", Confirm(survivors=ALL))
    refused("SPEC 11.4", cohort.answer, "a", played.unmask_task)


# -- kills ----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


class Killer:
    """Ends the process before or after the n-th durable write."""

    def __init__(self, at):
        self.left, self.on = at, False

    def here(self):
        if self.on:
            self.left -= 1
            if self.left < 0:
                self.on = False
                raise Killed

    def around(self, real):
        def write(*arguments, **options):
            self.here()
            result = real(*arguments, **options)
            self.here()
            return result

        return write

    def installed(self, monkeypatch):
        writes = [(keeper, "write_bytes"), (keeper, "_key"), (keeper, "_shred"), (records, "write_text")]
        for module, name in [*writes, (journal, "append"), (steps, "write_masked")]:
            monkeypatch.setattr(module, name, self.around(getattr(module, name)))
        return self


def play_killed(cohort, killer):
    """Play a round in which site a is killed once and asked again; return it and whether there was a kill."""
    played, others = Played(cohort), tuple(cohort.own)[1:]
    for step in ("advertise", "share", "mask", "confirm", "unmask"):
        getattr(played, step)(others)
        killer.on = True
        try:
            getattr(played, step)(("a",))
        except Killed:
            cohort.sites["a"].restart()
            getattr(played, step)(("a",))
        killer.on = False
    return played, killer.left < 0


def test_killed_before_or_after_any_write_the_round_ends_with_the_right_sum(tmp_path, monkeypatch):
    points = 0
    killed = True
    while killed:
        cohort = Cohort(tmp_path / str(points), own={"a": MODALITIES, "b": MODALITIES, "c": MODALITIES})
        with monkeypatch.context() as patched:
            played, killed = play_killed(cohort, Killer(points).installed(patched))
        assert_right(played, cohort.own)
        assert len(cohort.sites["a"].steps.spent.marks()) == 1
        points += 1
    assert points > 20, "there are many writes to be killed at"


def test_a_full_disk_answers_nothing_and_is_made_up_for(cohort, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(keeper, "write_bytes", full)
        with pytest.raises(StorageError, match="full"):
            cohort.answer("a", cohort.advertise())
    assert_right(Played(cohort).whole(ALL), ALL)


# -- what was kept --------------------------------------------------------------------------------------------------


def folder_of(cohort, site="a"):
    return cohort.sites[site].steps.keeper.masked(ROUND).parent


def test_the_state_is_sealed_under_a_key_of_its_own_for_this_user_alone(cohort):
    Played(cohort).advertise(ALL).share(ALL)
    folder = folder_of(cohort)
    assert (folder / "key").stat().st_mode & 0o777 == 0o600
    assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent, folder.parent.parent)} == {0o700}
    state = cohort.sites["a"].steps.keeper.read(ROUND)
    sealed = (folder / "state").read_bytes()
    for secret in (state.channel_private, state.mask_private, *state.seeds):
        assert secret not in sealed
        assert secret.hex().encode() not in sealed


def test_states_of_two_attempts_have_different_keys(cohort):
    Played(cohort).advertise(ALL)
    Played(cohort, replace(ROUND, attempt=2)).advertise(ALL)
    first, second = sorted(folder_of(cohort).parent.glob("*/key"))
    assert first.read_bytes() != second.read_bytes()


def test_a_destroyed_key_leaves_nothing_to_read_and_the_attempt_is_over(cohort):
    played = Played(cohort).whole(ALL)
    site, folder = cohort.sites["a"], folder_of(cohort)
    copy = (folder / "state").read_bytes()
    site.steps.destroy(lambda _: True)
    assert not folder.exists()
    folder.mkdir(parents=True)
    (folder / "state").write_bytes(copy)
    assert site.steps.keeper.read(ROUND) is None, "without its key a state opens nothing"
    refused("SPEC 11.4", cohort.answer, "a", played.unmask_task)
    refused("SPEC 11.4", cohort.answer, "a", played.task)
    assert site.steps.records.read(ROUND).survivors == ALL, "the public record remains"
    assert site.notes.of("secagg.destroyed")


def test_the_key_is_overwritten_before_it_is_removed(cohort, monkeypatch):
    Played(cohort).advertise(ALL)
    folder = folder_of(cohort)
    key = folder / "key"

    def dies(*_, **__):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(type(key), "unlink", dies)
        with pytest.raises(Killed):
            cohort.sites["a"].steps.destroy(lambda _: True)
    assert key.read_bytes() == bytes(32)
    site = cohort.sites["a"].restart()
    assert site.steps.keeper.read(ROUND) is None
    site.steps.destroy(lambda _: True)
    assert not folder.exists()


def test_killed_while_it_destroys_it_destroys_the_rest_the_next_time(tmp_path, monkeypatch):
    for point in (0, 1):
        cohort = Cohort(tmp_path / str(point))
        Played(cohort).advertise(ALL)
        killer = Killer(point)
        with monkeypatch.context() as patched:
            killer.installed(patched).on = True
            with pytest.raises(Killed):
                cohort.sites["a"].steps.destroy(lambda _: True)
        cohort.sites["a"].restart().steps.destroy(lambda _: True)
        assert list(cohort.sites["a"].steps.keeper.attempts()) == []


def test_only_what_is_over_is_destroyed(cohort):
    Played(cohort).advertise(ALL)
    later = replace(ROUND, attempt=2)
    Played(cohort, later).advertise(ALL)
    site = cohort.sites["a"]
    site.steps.destroy(lambda round_id: round_id != later)
    assert list(site.steps.keeper.attempts()) == [later]


def test_a_damaged_state_is_refused_and_a_key_without_state_is_used(cohort):
    Played(cohort).advertise(ALL)
    folder = folder_of(cohort)
    (folder / "state").write_bytes((folder / "state").read_bytes()[:-1] + b"\0")
    with pytest.raises(RefusalError, match="damaged"):
        Keeper(cohort.sites["a"].data).read(ROUND)
    (folder / "state").unlink()
    assert Keeper(cohort.sites["a"].data).read(ROUND) is None


def test_a_key_that_is_not_whole_has_sealed_nothing_and_is_made_anew(cohort):
    folder = folder_of(cohort)
    folder.mkdir(parents=True)
    (folder / "key").write_bytes(b"torn")
    Played(cohort).advertise(ALL)
    assert len((folder / "key").read_bytes()) == 32


# -- spent ----------------------------------------------------------------------------------------------------------


def test_an_update_is_spent_before_it_is_announced(cohort, monkeypatch):
    played = Played(cohort).advertise(ALL).share(ALL)
    site = cohort.sites["a"]
    with monkeypatch.context() as patched:
        killer = Killer(0)
        patched.setattr(journal, "append", killer.around(journal.append))
        killer.on = True
        with pytest.raises(Killed):
            played.mask(("a",))
    assert site.steps.masked(ROUND) is None, "without a mark nothing is announced"
    played.mask(("a",))
    assert [mark.round for mark in site.steps.spent.marks()] == [ROUND]
    assert site.steps.masked(ROUND) is not None


def test_marks_are_read_once_before_masking_and_once_after_it(cohort, monkeypatch):
    played, reads, read = Played(cohort).advertise(ALL).share(ALL), [], Spent.marks
    monkeypatch.setattr(Spent, "marks", lambda spent: reads.append(1) or read(spent))
    played.mask(("a",))
    assert len(reads) == 2


@pytest.mark.parametrize("later", [replace(ROUND, attempt=2), replace(SECOND, round_number=1, attempt=3)])
def test_a_round_is_not_tried_again_after_the_update_was_sent(cohort, later):
    Played(cohort).whole(ALL)
    problem = refused("SPEC 11.5", cohort.answer, "a", cohort.advertise(later), later)
    assert "takes part in later rounds only" in problem


def test_an_older_round_is_refused_after_a_later_one_was_spent(cohort):
    Played(cohort, SECOND, previous=ALL).whole(ALL)
    assert "later rounds only" in refused("SPEC 11.5", cohort.answer, "a", cohort.advertise())


def test_before_the_update_is_sent_another_attempt_has_fresh_keys(cohort):
    first = Played(cohort).advertise(ALL).share(ALL)
    second = Played(cohort, replace(ROUND, attempt=2)).whole(ALL)
    assert first.advertised["a"] != second.advertised["a"]
    assert_right(second, ALL)


def test_the_same_vector_is_never_masked_in_another_run(tmp_path):
    first = Cohort(tmp_path)
    Played(first).whole(ALL)
    second = Cohort(tmp_path / "second", run="r2")
    for site in ALL:
        second.sites[site].data = first.sites[site].data
        second.sites[site].restart()
    other = RoundId(run="r2", round_number=1)
    problem = refused("SPEC 11.5", second.answer, "a", second.advertise(other), other)
    assert problem.endswith("sent masked in round r/1: two sums could be compared")


def test_the_same_vector_is_never_masked_in_a_later_round(cohort):
    Played(cohort).whole(ALL)
    same = {"result": cohort.knowledge("a").result}
    task = cohort.advertise(SECOND)
    with pytest.raises(RefusalError, match="go on to the next round") as caught:
        cohort.answer("a", task, SECOND, **same)
    assert caught.value.clause == "SPEC 11.5"


# -- what is never masked -------------------------------------------------------------------------------------------


def test_a_value_out_of_range_is_never_masked(cohort):
    played = Played(cohort).advertise(ALL).share(ALL)
    known = cohort.knowledge("a")
    words = cohort.vector("a")
    words[0] = 1 << 31
    known.contribution.write_bytes(words.tobytes())
    with pytest.raises(RefusalError, match="out of range in segment modality/flair") as caught:
        cohort.sites["a"].steps.mask(played.mask_task("a"), known)
    assert caught.value.cause is DeclineCause.UPDATE
    assert cohort.sites["a"].steps.masked(ROUND) is None
    assert not cohort.sites["a"].steps.keeper.masked(ROUND).exists()
    assert cohort.sites["a"].steps.spent.marks() == ()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda words: words[:-1], "shorter"),
        (lambda words: np.append(words, words[:1]), "longer"),
        (lambda words: np.roll(words, 1), "not the one that was trained"),
    ],
)
def test_another_contribution_than_the_trained_one_is_never_masked(cohort, change, match):
    played = Played(cohort).advertise(ALL).share(ALL)
    known = cohort.knowledge("a")
    known.contribution.write_bytes(change(cohort.vector("a")).tobytes())
    with pytest.raises(RefusalError, match=match):
        cohort.sites["a"].steps.mask(played.mask_task("a"), known)
    assert cohort.sites["a"].steps.masked(ROUND) is None


def test_an_update_above_the_policy_s_norm_is_never_masked(cohort):
    played = Played(cohort).advertise(ALL).share(ALL)
    with pytest.raises(RefusalError) as caught:
        cohort.mask("a", played.mask_task("a"), most_norm=1e-9)
    assert caught.value.clause == "policy limits.max_update_norm"
    cohort.mask("a", played.mask_task("a"), most_norm=10.0)


# -- cohorts --------------------------------------------------------------------------------------------------------


def test_fewer_sites_than_a_site_demands_are_refused_at_each_step(tmp_path):
    cohort = Cohort(tmp_path, minimum=5)
    played = Played(cohort).advertise(ALL)
    played.advertised.pop("e")
    assert "5 are demanded" in refused("SPEC 10.10", played.share, ("a",))


def test_members_that_nobody_approved_do_not_count(cohort):
    played = Played(cohort)
    said = cohort.answer("a", played.task, counted=frozenset({"b", "c"}))
    assert said.minimum == 3 + 2
    own = cohort.answer("b", played.task, counted=frozenset(ALL))
    assert own.minimum == 3


def test_too_many_demands_are_no_demands(cohort):
    assert "protects nobody" in refused("SPEC 10.10", lambda: cohort.answer("a", cohort.advertise(), minimum=5000))


def test_the_stored_state_is_checked_when_it_is_read(cohort, monkeypatch):
    Played(cohort).advertise(ALL)
    monkeypatch.setattr(keeper, "load_state", lambda _: load_state(b"[]"))
    with pytest.raises(RefusalError, match="damaged"):
        cohort.sites["a"].steps.keeper.read(ROUND)
