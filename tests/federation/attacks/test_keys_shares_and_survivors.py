"""A coordinator that lies within a round: about keys, sharers, survivors, signatures. No share opens too much."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protos.terms import AdvertisedKeys, Confirm, Declined, Share, Shared, Submitted, Unmask, Unmasked
from security import keys
from security.secagg import Demands, advertise
from site_agent.policy_file import Policy
from tests.federation.attacks.victim import Victim
from tests.site_agent.secure_cohort import MODALITIES, OWN, ROUND

ALL = tuple(OWN)
SEVEN = {
    "a": ("flair", "t1ce"),
    "b": ("t1", "t1ce"),
    "c": ("t1", "t1ce"),
    "d": MODALITIES[:1] + MODALITIES[2:],
    "e": MODALITIES[:1] + MODALITIES[2:],
    "f": MODALITIES[:1] + MODALITIES[2:],
    "g": MODALITIES[:1] + MODALITIES[2:],
}


@pytest.fixture
def victim(tmp_path):
    return Victim(tmp_path)


def tampered(task, site, **changes):
    return Share(keys=tuple(replace(one, **changes) if one.site == site else one for one in task.keys))


# -- R1 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["channel_key", "mask_key"])
def test_a_key_in_place_of_a_site_s_own_is_found_out(victim, name):
    """Whose private half the coordinator has, to read the shares or to know the masks."""
    task = victim.up_to("share").share_task
    victim.assert_refused(tampered(task, "b", **{name: b"\7" * 32}), "SPEC 10.3", "the keys of b are not signed")


def test_keys_that_the_coordinator_signed_for_a_site_are_found_out(victim):
    """It makes keys of its own for b, and an identity that its authority would certify."""
    task = victim.up_to("share").share_task
    forger = keys.make_signing_key()
    setting = victim.cohort.setting(victim.played.task)
    parties = tuple(
        replace(one, identity_key=keys.public_bytes(forger)) if one.site == "b" else one for one in setting.parties
    )
    made = advertise(replace(setting, parties=parties), "b", forger, Demands(minimum=3)).advertisement
    forged = {"channel_key": made.channel_key, "mask_key": made.mask_key, "signature": made.signature}
    victim.assert_refused(tampered(task, "b", **forged), "SPEC 10.3", "the keys of b are not signed")


def test_an_invented_site_gets_no_shares(victim):
    task = victim.up_to("share").share_task
    made = {"channel_key": b"\7" * 32, "mask_key": b"\x08" * 32, "minimum": 3, "colluders": 0, "signature": bytes(64)}
    invented = Share(keys=(*task.keys, AdvertisedKeys(site="y", **made)))
    victim.assert_refused(invented, "SPEC 10.3", "the set of keys holds y, which was not there before")


def test_demands_that_the_coordinator_lowered_are_found_out(victim):
    """Else a segment would be opened that a site in it forbids."""
    victim.cohort.minimum = 4
    task = victim.up_to("share").share_task
    victim.assert_refused(tampered(task, "c", minimum=3), "SPEC 10.3", "the keys of c are not signed")


def test_a_cohort_that_is_shrunk_below_what_a_site_demands_gets_no_shares(tmp_path):
    victim = Victim(tmp_path, Policy.model_validate({"aggregation": {"minimum_cohort": 3, "assumed_colluders": 2}}))
    task = victim.up_to("share").share_task
    few = Share(keys=tuple(one for one in task.keys if one.site in "abc"))
    victim.assert_refused(few, "SPEC 10.10", "too few if 2 collude, as a assumes")


def test_colluders_that_could_sign_two_sets_of_survivors_get_no_shares(tmp_path):
    """With three of five, each of two honest sites makes four signatures: one gives a seed, the other a mask key."""
    victim = Victim(tmp_path, Policy.model_validate({"aggregation": {"minimum_cohort": 3, "assumed_colluders": 3}}))
    task = victim.up_to("share").share_task
    victim.assert_refused(task, "SPEC 10.10", "too few if 3 collude, as a assumes")


def test_another_set_of_keys_in_the_same_attempt_is_declined(victim):
    task = victim.up_to("mask").share_task
    victim.assert_refused(Share(keys=task.keys[:4]), "SPEC 11.4", "another set of keys was answered before")


# -- R2 -------------------------------------------------------------------------------------------------------------


def without(task, *gone):
    sharers = tuple(site for site in task.sharers if site not in gone)
    return replace(task, sharers=sharers, shares=tuple(one for one in task.shares if one.site in sharers))


def test_too_few_sharers_get_no_input(victim):
    task = victim.up_to("mask").mask_task("a")
    victim.assert_refused(without(task, "d", "e"), "SPEC 10.5", "has 3 sites, 4 of 5 are needed")
    assert victim.script.uploaded == b""


def test_fewer_sharers_than_some_site_demands_get_no_input(tmp_path):
    victim = Victim(tmp_path, demand=5)
    task = victim.up_to("mask").mask_task("a")
    victim.assert_refused(without(task, "e"), "SPEC 10.10", "has 4 sites; 5 are demanded (b)")
    assert victim.script.uploaded == b""


def test_sharers_that_were_never_shown_keys_are_no_company(victim):
    task = victim.up_to("mask").mask_task("a")
    wider = replace(task, sharers=(*task.sharers, "y"))
    victim.assert_refused(wider, "SPEC 10.5", "the set of sharing sites holds y, which was not there before")


def test_sharers_shown_differently_to_two_sites_give_signatures_that_do_not_fit(victim):
    """a is shown fewer sharers than the others, so that later a mask towards e would be missing from its input."""
    played = victim.up_to("mask")
    played.mask(victim.others)
    said = victim.tell(without(played.mask_task("a"), "e"))
    assert isinstance(said[-1], Submitted)
    played.masked["a"] = victim.script.uploaded
    del played.masked["e"]
    played.confirm("bcd").confirmed["a"] = victim.tell(played.confirm_task)[-1]
    victim.assert_refused(played.unmask_task, "SPEC 10.9", "b has not signed these survivors")


def test_survivors_with_whom_a_site_shares_no_mask_are_not_signed(victim):
    """Else the coordinator would have masks of a that no pair covers."""
    played = victim.up_to("mask")
    assert isinstance(victim.tell(without(played.mask_task("a"), "e"))[-1], Submitted)
    victim.assert_refused(Confirm(survivors=ALL), "SPEC 10.8", "the set of survivors holds e")


# -- R3 and R4 ------------------------------------------------------------------------------------------------------


def test_survivors_split_into_two_views_are_opened_by_nobody(victim):
    """a, b and c are shown all five, d and e that b dropped out: for b, a would give its seed and d its mask key."""
    played = victim.up_to("confirm")
    played.confirm("bc").confirmed["a"] = victim.tell(Confirm(survivors=ALL))[-1]
    split = Confirm(survivors=("a", "c", "d", "e"))
    others = {site: victim.cohort.answer(site, split) for site in "de"}
    for site in "de":
        assert "b" not in victim.cohort.sites[site].steps.records.read(ROUND).survivors
    played.confirmed |= others
    victim.assert_refused(played.unmask_task, "SPEC 10.9", "d has not signed these survivors")


def test_fewer_signatures_than_the_threshold_open_nothing(victim):
    played = victim.up_to("unmask")
    few = Unmask(signatures=tuple(one for one in played.unmask_task.signatures if one.site in "abc"))
    victim.assert_refused(few, "SPEC 10.9", "3 sites signed who survived, 4 are needed")


def test_a_signature_that_is_repeated_under_other_names_opens_nothing(victim):
    played = victim.up_to("unmask")
    own = next(one for one in played.unmask_task.signatures if one.site == "b")
    copies = Unmask(signatures=tuple(replace(own, site=site) for site in ALL))
    victim.assert_refused(copies, "SPEC 10.9", "a has not signed these survivors")


def test_the_other_kind_of_share_is_not_given_before_an_answer(victim):
    """Signed for five, asked again for four: e's seed and e's mask key together would open e's input."""
    victim.up_to("unmask")
    victim.assert_refused(Confirm(survivors=ALL[:4]), "SPEC 11.4", "another set of survivors was answered before")


def test_the_other_kind_of_share_is_not_given_after_an_answer(victim):
    played = victim.whole()
    before = len(victim.script.sent)
    said = victim.tell(Confirm(survivors=ALL[:4]))
    assert [type(body) for body in said] == [Declined]
    ((_, outcome, details),) = victim.audit("round.declined")
    assert (outcome, details["clause"]) == ("refused", "SPEC 11.4")
    assert victim.tell(played.unmask_task) == []
    later = b"".join(victim.script.sent[before:])
    for share in victim.received():
        assert share not in later
    victim.assert_nothing_leaked(shares=False)


def kinds(said):
    return {one.site for one in said.seeds}, {one.site for one in said.keys}


def test_exactly_one_kind_of_share_is_given_for_each_site(victim):
    played = victim.whole(without=("e",))
    seeds, masks = kinds(played.unmasked["a"])
    assert (seeds, masks) == ({"a", "b", "c", "d"}, {"e"})
    own = victim.state
    for site, held in own.shares.items():
        given = held[1:] if site == "e" else held[:1]
        assert not any(share in victim.script.wire for share in given), "the kind that was not to be given"


def test_a_survivor_alone_in_a_segment_is_not_opened(tmp_path):
    """b and c, the other owners of t1ce, are declared dropped: only a's own mask would be left on a's encoder."""
    victim = Victim(tmp_path, own=SEVEN)
    played = victim.whole(without=("b", "c"))
    assert isinstance(played.unmasked["a"], Unmasked)
    assert {one.segment for one in played.unmasked["a"].seeds if one.site == "a"} == {"common", "modality/flair"}
    at = [one.name for one in victim.cohort.layout.for_member(SEVEN["a"])].index("modality/t1ce")
    assert all(victim.state.shares["a"][1 + at] not in part for part in victim.script.sent)
    for site in "defg":
        given = {(one.site, one.segment) for one in played.unmasked[site].seeds}
        assert ("a", "modality/t1ce") not in given
    assert "modality/t1ce" not in played.sums()
    assert victim.audit("secagg.unmasked")[0][2]["U3"] == "5"


def test_survivors_less_colluders_below_two_are_not_opened(tmp_path):
    """Of t1ce's owners a, b, c and e one is declared dropped: three are left, two of them perhaps the coordinator's."""
    victim = Victim(tmp_path, Policy.model_validate({"aggregation": {"minimum_cohort": 3, "assumed_colluders": 2}}))
    played = victim.whole(without=("e",))
    without_a = {"common", "modality/t1", "modality/t2"}
    assert {one.segment for one in played.unmasked["a"].seeds} == without_a
    assert set(played.sums()) == without_a


def test_a_segment_below_what_one_site_in_it_demands_is_opened_by_nobody(tmp_path):
    victim = Victim(tmp_path, Policy.model_validate({"aggregation": {"minimum_cohort": 4}}))
    spec = victim.cohort.spec
    assert spec.plan.personalisation.min_contributors == 3
    said = victim.tell(victim.train)
    assert "min_contributors of the run is 3, this site demands 4" in said[0].problem


def test_a_stranger_in_the_roster_raises_what_a_site_demands(tmp_path):
    """A member that nobody here approved counts as one more that is demanded, and as a colluder (SPEC 10.1)."""
    policy = {"aggregation": {"minimum_cohort": 3}, "approval": {"members": "person"}}
    victim = Victim(tmp_path, Policy.model_validate(policy))
    said = victim.tell(victim.train)
    assert "min_contributors of the run is 3, this site demands 7" in said[0].problem, "four strangers"


def test_shares_are_asked_for_again_as_they_were_and_given_byte_by_byte(victim):
    """A coordinator that lost its answers is no attacker: the site repeats itself and says nothing new."""
    played = victim.up_to("mask")
    victim.script.forget()
    victim.tell(victim.train)
    assert victim.tell(played.task)[-1] == played.advertised["a"]
    (again,) = [body for body in victim.tell(played.share_task) if isinstance(body, Shared)]
    assert again == played.shared["a"]
