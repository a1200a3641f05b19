"""What a lying coordinator or a cheating site gets from a site: an error that names the matter, and no share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from security import secagg
from security.errors import (
    ContextError,
    EquivocationError,
    RosterError,
    ShareError,
    SignatureError,
    SmallCohortError,
)
from security.keys import public_bytes
from security.secagg import Demands, Party, Segment
from tests.security.secagg.cohort import (
    HASH,
    LENIENT,
    OWN,
    SEGMENTS,
    Cohort,
    identity_key,
    setting_of,
    whole,
)

SITES = tuple(sorted(OWN))


# -- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"consortium": "other.example"},
        {"run": "other"},
        {"round_number": 4},
        {"attempt": 2},
        {"membership_version": 6},
        {"membership_digest": bytes(32)},
        {"spec_hash": bytes(32)},
        {"layout_digest": bytes(32)},
        {"formats": ((1.0, 2048.0),) * 5},
        {"segments": (*SEGMENTS[:2], replace(SEGMENTS[2], least_open=6))},
        {"segments": (*SEGMENTS[:2], replace(SEGMENTS[2], values=102))},
        {"broadcast": (("common", bytes(32)), ("anchors", HASH))},
        {"previous": SITES[1:]},
        {"parties": setting_of().parties[1:]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_two_sites_that_are_told_different_things_have_nothing_in_common(change):
    told, otherwise = setting_of(), setting_of(**change)
    assert told.context != otherwise.context
    honest = Cohort(setting=told).advertise()
    stranger = secagg.advertise(otherwise, "bee", identity_key("bee"), LENIENT).advertisement
    said = [stranger if one.site == "bee" else one for one in honest.advertisements]
    with pytest.raises(SignatureError, match="the keys of bee are not signed"):
        secagg.share(honest.states["ant"], said)


def test_modality_sets_are_part_of_the_context():
    own = {**OWN, "ant": ("flair", "t1")}
    assert setting_of(own).context != setting_of().context


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"previous": ("bee", "ant")}, "not sorted"),
        ({"previous": ("ant", "ant")}, "holds a site twice"),
        ({"previous": ("ant", "spy")}, "holds spy"),
        ({"parties": tuple(reversed(setting_of().parties))}, "not sorted"),
        ({"parties": (*setting_of().parties, Party(site="spy", modalities=("t1",), identity_key=HASH))}, "holds spy"),
    ],
)
def test_a_setting_with_impossible_sites_cannot_be(change, words):
    with pytest.raises(RosterError, match=words):
        setting_of(**change)


@pytest.mark.parametrize("segments", [SEGMENTS[:2], (*SEGMENTS, SEGMENTS[2])])
def test_a_setting_needs_one_segment_of_all(segments):
    with pytest.raises(ContextError, match="one segment of all sites"):
        setting_of(segments=segments)


def test_who_was_not_asked_does_not_advertise():
    with pytest.raises(RosterError, match="spy is not in the roster"):
        secagg.advertise(setting_of(), "spy", identity_key("spy"), LENIENT)


def test_a_site_whose_key_the_list_does_not_have_does_not_advertise():
    with pytest.raises(ContextError, match="another identity key for ant"):
        secagg.advertise(setting_of(), "ant", identity_key("bee"), LENIENT)


def test_an_attempt_is_about_one_thing_only():
    state = secagg.advertise(setting_of(), "ant", identity_key("ant"), LENIENT)
    secagg.check_same_setting(state, setting_of())
    with pytest.raises(EquivocationError, match="about something else before"):
        secagg.check_same_setting(state, setting_of(previous=SITES[1:]))


# -- R1: keys -------------------------------------------------------------------------------------------------------


def keys_of(cohort, **replaced):
    return [replace(one, **replaced.get(one.site, {})) for one in cohort.advertisements]


def test_a_substituted_key_is_found_out():
    cohort = Cohort().advertise()
    for field in ("mask_key", "channel_key"):
        with pytest.raises(SignatureError, match="the keys of cat are not signed"):
            secagg.share(cohort.states["ant"], keys_of(cohort, cat={field: HASH}))


def test_an_invented_site_is_found_out():
    cohort = Cohort().advertise()
    invented = replace(cohort.advertisements[0], site="zoo", mask_key=HASH, channel_key=bytes(32))
    with pytest.raises(RosterError, match="holds zoo"):
        secagg.share(cohort.states["ant"], [*cohort.advertisements, invented])


def test_a_site_that_signs_with_another_key_than_the_list_s_is_found_out():
    """However valid its certificate may be: the list decides."""
    cohort = Cohort().advertise()
    parties = tuple(
        replace(one, identity_key=public_bytes(identity_key("spy"))) if one.site == "fox" else one
        for one in cohort.setting.parties
    )
    fake = secagg.advertise(setting_of(parties=parties), "fox", identity_key("spy"), LENIENT).advertisement
    said = [fake if one.site == "fox" else one for one in cohort.advertisements]
    with pytest.raises(SignatureError, match="the keys of fox"):
        secagg.share(cohort.states["ant"], said)


def test_a_site_that_is_not_shown_its_own_keys_stops():
    cohort = Cohort().advertise()
    again = secagg.advertise(cohort.setting, "ant", identity_key("ant"), LENIENT).advertisement
    said = [again if one.site == "ant" else one for one in cohort.advertisements]
    with pytest.raises(ContextError, match="hold others for this site"):
        secagg.share(cohort.states["ant"], said)
    with pytest.raises(RosterError, match="ant advertised no keys"):
        secagg.share(cohort.states["ant"], cohort.advertisements[1:])


def test_repeated_keys_are_found_out():
    cohort = Cohort().advertise()
    copied = cohort.states["bee"]
    reused = secagg.advertise(
        cohort.setting,
        "cat",
        identity_key("cat"),
        LENIENT,
        secagg.Randomness(key=iter([copied.channel_private, copied.mask_private]).__next__),
    ).advertisement
    said = [reused if one.site == "cat" else one for one in cohort.advertisements]
    with pytest.raises(RosterError, match="two of the round's keys are equal"):
        secagg.share(cohort.states["ant"], said)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (lambda said: said[::-1], "not sorted"),
        (lambda said: [said[0], *said], "holds a site twice"),
        (lambda said: said[:2], "2 sites advertised keys, 3 are needed"),
    ],
)
def test_a_set_of_keys_must_be_a_set_of_enough(said, words):
    cohort = Cohort().advertise()
    with pytest.raises(RosterError, match=words):
        secagg.share(cohort.states["ant"], said(cohort.advertisements))


def test_a_cohort_below_the_site_s_minimum_gets_no_shares():
    cohort = Cohort(demands=Demands(minimum=5)).advertise(SITES[:4])
    with pytest.raises(SmallCohortError, match="segment common has 4 sites; 5 are demanded"):
        secagg.share(cohort.states["ant"], cohort.advertisements)


def test_one_set_of_keys_is_answered_and_answered_alike():
    cohort = Cohort().advertise().share()
    state = cohort.states["ant"]
    assert secagg.share(state, cohort.advertisements) is state
    with pytest.raises(EquivocationError, match="another set of keys was answered before"):
        secagg.share(state, cohort.advertisements[:5])


@pytest.mark.parametrize("field", ["channel_key", "mask_key"])
def test_a_key_of_low_order_is_refused_by_whom_it_is_shown_to(field):
    cohort = Cohort().advertise()
    lazy = replace(cohort.states["bee"].advertisement, **{field: bytes(32)})
    lazy = replace(lazy, signature=identity_key("bee").sign(lazy.signed(cohort.setting.context)))
    with pytest.raises(ShareError, match="no usable key"):
        secagg.share(cohort.states["ant"], [lazy if one.site == "bee" else one for one in cohort.advertisements])
    with pytest.raises(ShareError, match="no usable key"):
        secagg.check_advertisement(cohort.setting, lazy)


# -- R2: shares -----------------------------------------------------------------------------------------------------


def shared_cohort():
    return Cohort().advertise().share()


@pytest.mark.parametrize(
    ("sharers", "words"),
    [
        (SITES[::-1], "not sorted"),
        (("ant", "ant", *SITES[1:]), "holds a site twice"),
        ((*SITES, "zoo"), "holds zoo"),
        (SITES[:4], "has 4 sites, 5 of 6 are needed"),
        (SITES[1:], "does not hold ant"),
    ],
)
def test_an_impossible_set_of_sharers_gets_no_input(sharers, words):
    cohort = shared_cohort()
    with pytest.raises(RosterError, match=words):
        secagg.receive(cohort.states["ant"], sharers, {})


def test_too_few_sharers_get_no_input():
    cohort = Cohort(demands=Demands(minimum=6)).advertise().share()
    with pytest.raises(SmallCohortError, match="segment common has 5 sites; 6 are demanded"):
        secagg.receive(cohort.states["ant"], SITES[:5], cohort.sealed_for("ant", SITES[:5]))


def test_one_set_of_sharers_is_answered_and_answered_alike():
    cohort = shared_cohort()
    state = secagg.receive(cohort.states["ant"], SITES, cohort.sealed_for("ant"))
    assert secagg.receive(state, SITES, {}) is state
    with pytest.raises(EquivocationError, match="another set of sharing sites"):
        secagg.receive(state, SITES[:5], {})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda sealed: sealed[:-1] + bytes([sealed[-1] ^ 1]),
        lambda sealed: sealed[:-1],
        lambda sealed: b"",
    ],
)
def test_a_bundle_that_does_not_open_counts_as_not_received(spoil):
    cohort = shared_cohort()
    sealed = cohort.sealed_for("ant")
    state = secagg.receive(cohort.states["ant"], SITES, {**sealed, "bee": spoil(sealed["bee"])})
    assert secagg.missing_shares(state) == ("bee",)


def test_a_bundle_of_another_s_identity_does_not_open():
    cohort = shared_cohort()
    sealed = cohort.sealed_for("ant")
    state = secagg.receive(cohort.states["ant"], SITES, {**sealed, "bee": sealed["cat"]})
    assert secagg.missing_shares(state) == ("bee",)


def test_a_bundle_for_another_site_does_not_open():
    cohort = shared_cohort()
    state = secagg.receive(
        cohort.states["ant"], SITES, {**cohort.sealed_for("ant"), "bee": cohort.sealed_for("dog")["bee"]}
    )
    assert secagg.missing_shares(state) == ("bee",)


@pytest.mark.parametrize("plain", [b"\xff" * 33 * 4, bytes(33)], ids=["value", "length"])
def test_a_bundle_with_malformed_shares_counts_as_not_received(plain):
    cohort = shared_cohort()
    cheat = cohort.states["bee"]
    sealed = secagg_seal(cheat, "ant", plain)
    state = secagg.receive(cohort.states["ant"], SITES, {**cohort.sealed_for("ant"), "bee": sealed})
    assert secagg.missing_shares(state) == ("bee",)


def secagg_seal(state, receiver, plain):
    from security.secagg.share import _seal

    return _seal(state, state.keys, receiver, plain)


def test_a_site_without_a_peer_s_shares_goes_on_and_the_sum_is_right():
    cohort = shared_cohort()
    bundle = cohort.states["bee"].bundle
    cohort.states["bee"] = replace(
        cohort.states["bee"], bundle=replace(bundle, sealed={**bundle.sealed, "ant": bytes(115)})
    )
    cohort.mask().confirm().unmask()
    assert "bee" not in cohort.states["ant"].answer.seeds
    assert (cohort.opened()["common"] == cohort.plain("common")).all()


def test_nothing_is_masked_before_it_is_known_who_shares():
    cohort = shared_cohort()
    with pytest.raises(EquivocationError, match="who shares is not known"):
        secagg.pads(cohort.states["ant"])
    with pytest.raises(EquivocationError, match="has not shared its secrets"):
        secagg.pads(Cohort().advertise().states["ant"])


def test_masks_towards_a_site_that_was_shown_otherwise_do_not_cancel():
    """Sharers shown differently to two sites: the coordinator gets noise."""
    cohort = shared_cohort()
    cohort.mask(SITES[1:])
    state = secagg.receive(cohort.states["ant"], SITES[:5], cohort.sealed_for("ant", SITES[:5]))
    assert set(secagg.pads(state)["common"]) < set(
        secagg.pads(secagg.receive(cohort.states["ant"], SITES, cohort.sealed_for("ant")))["common"]
    )


# -- R3: survivors --------------------------------------------------------------------------------------------------


def masked_cohort():
    return shared_cohort().mask()


@pytest.mark.parametrize(
    ("survivors", "words"),
    [
        (SITES[::-1], "not sorted"),
        (("ant", "ant", *SITES[1:]), "holds a site twice"),
        ((*SITES, "zoo"), "holds zoo"),
        (SITES[:4], "has 4 sites, 5 of 6 are needed"),
        (SITES[1:], "does not hold ant"),
    ],
)
def test_impossible_survivors_are_not_signed(survivors, words):
    cohort = masked_cohort()
    with pytest.raises(RosterError, match=words):
        secagg.confirm(cohort.states["ant"], survivors, identity_key("ant"))


def test_a_survivor_with_whom_the_site_shares_no_mask_is_refused():
    """Else it would count as company although no pairwise mask ties the two together."""
    cohort = Cohort().advertise().share()
    state = secagg.receive(cohort.states["ant"], SITES[:5], cohort.sealed_for("ant", SITES[:5]))
    with pytest.raises(RosterError, match="holds fox"):
        secagg.confirm(state, SITES, identity_key("ant"))


def test_survivors_are_signed_once():
    cohort = masked_cohort()
    state = secagg.confirm(cohort.states["ant"], SITES, identity_key("ant"))
    assert secagg.confirm(state, SITES, identity_key("ant")) is state
    with pytest.raises(EquivocationError, match="another set of survivors"):
        secagg.confirm(state, SITES[:5], identity_key("ant"))


def test_survivors_are_signed_only_after_masking():
    cohort = shared_cohort()
    with pytest.raises(EquivocationError, match="has not masked"):
        secagg.confirm(cohort.states["ant"], SITES, identity_key("ant"))
    with pytest.raises(EquivocationError, match="has not shared"):
        secagg.confirm(Cohort().advertise().states["ant"], SITES, identity_key("ant"))


# -- R4: unmasking --------------------------------------------------------------------------------------------------


def confirmed_cohort(demands=LENIENT):
    return Cohort(demands=demands).advertise().share().mask().confirm()


def test_survivors_split_into_two_views_are_opened_by_nobody():
    """Half of the sites are shown one set, half another: neither set gets enough signatures."""
    cohort = masked_cohort()
    for site in SITES:
        shown = SITES if site in SITES[:3] else (*SITES[:1], *SITES[2:])
        cohort.states[site] = secagg.confirm(cohort.states[site], shown, identity_key(site))
    signatures = {site: cohort.states[site].confirmation for site in SITES}
    with pytest.raises(SignatureError, match="dog has not signed these survivors"):
        secagg.unmask(cohort.states["ant"], signatures)
    believed = {site: signatures[site] for site in SITES[:3]}
    with pytest.raises(RosterError, match="3 sites signed who survived, 5 are needed"):
        secagg.unmask(cohort.states["ant"], believed)


def test_a_signature_of_a_site_that_did_not_survive_does_not_count():
    cohort = Cohort().advertise().share().mask(SITES[:5]).confirm()
    with pytest.raises(RosterError, match="fox confirms survivors without being one"):
        secagg.unmask(cohort.states["ant"], {**cohort.signatures, "fox": bytes(64)})


def test_unmasking_below_the_threshold_is_refused():
    cohort = confirmed_cohort()
    few = {site: cohort.signatures[site] for site in SITES[1:4]}
    with pytest.raises(RosterError, match="5 are needed"):
        secagg.unmask(cohort.states["ant"], few)


def test_exactly_one_kind_of_share_is_given_per_site():
    cohort = Cohort().advertise().share().mask(SITES[:5]).confirm().unmask()
    for site in cohort.survivors:
        answer = cohort.states[site].answer
        assert set(answer.seeds) == set(SITES[:5])
        assert set(answer.keys) == {"fox"}


def test_shares_are_given_once_whatever_is_asked_later():
    cohort = whole()
    state = cohort.states["ant"]
    assert secagg.unmask(state, {}) is state


def test_nothing_is_opened_before_survivors_are_signed():
    with pytest.raises(EquivocationError, match="has not signed who survived"):
        secagg.unmask(masked_cohort().states["ant"], {})


def test_one_survivor_in_a_segment_is_never_opened():
    """Declaring all other owners of t1 dropped would leave one input under one self mask."""
    own = {f"s{n}": ("flair",) for n in range(7)} | {"s8": ("flair", "t1"), "s9": ("flair", "t1")}
    cohort = Cohort(setting=setting_of(own)).advertise().share()
    cohort.mask([site for site in cohort.sharers if site != "s8"]).confirm().unmask()
    for site in cohort.survivors:
        assert "modality/t1" not in cohort.states[site].answer.seeds["s9"]
    assert "modality/t1" not in cohort.opened()


def opened_by(demands):
    cohort = confirmed_cohort(demands)
    return set(secagg.unmask(cohort.states["ant"], cohort.signatures).answer.seeds["bee"])


def test_survivors_less_colluders_must_be_two():
    assert opened_by(Demands(minimum=3, colluders=2)) == {"modality/flair", "modality/t1", "common"}
    assert opened_by(Demands(minimum=3, colluders=3)) == {"modality/flair", "common"}  # t1 has four owners: 4 - 3 < 2


def test_more_colluders_than_the_threshold_bears_get_no_shares():
    """Of seven sites with three colluders two sets of survivors could each get five signatures."""
    own = {f"s{n}": ("flair", "t1") for n in range(7)}
    assert Cohort(setting=setting_of(own), demands=Demands(minimum=4, colluders=2)).advertise().share()
    with pytest.raises(SmallCohortError, match="7 of 7 sites; that is too few if 3 collude, as s0 assumes") as caught:
        Cohort(setting=setting_of(own), demands=Demands(minimum=4, colluders=3)).advertise().share()
    assert caught.value.sites[0] == "s0"


def test_demands_below_the_membership_list_s_minimum_are_refused():
    cohort = Cohort(setting=setting_of(minimum_cohort=5), demands=Demands(minimum=5), stricter={"fox": LENIENT})
    cohort.advertise()
    with pytest.raises(SmallCohortError, match="fox demands 3 sites, the membership list 5"):
        secagg.share(cohort.states["ant"], cohort.advertisements)


def test_a_site_s_demands_are_signed():
    cohort = Cohort(stricter={"fox": Demands(minimum=6)}).advertise()
    with pytest.raises(SignatureError, match="the keys of fox are not signed"):
        secagg.share(cohort.states["ant"], keys_of(cohort, fox={"demands": LENIENT}))


def announced(least_open, gone, minimum):
    """A round whose counts hold six sites' announcements, some of which are gone."""
    segments = (*SEGMENTS[:2], Segment(name="common", values=101, least_open=least_open))
    cohort = Cohort(setting=setting_of(segments=segments), demands=Demands(minimum=minimum)).advertise().share()
    cohort.mask([site for site in SITES if site not in gone]).confirm()
    return cohort


def test_a_filter_that_lost_too_many_contributors_keeps_its_segment_closed():
    cohort = announced(least_open=4, gone=["fox"], minimum=4)
    keys = cohort.states["ant"].keys
    with pytest.raises(SmallCohortError, match="segment common has a filter with 3 contributors left"):
        keys.check_open(keys.setting.common, cohort.survivors)
    with pytest.raises(SmallCohortError, match="3 contributors left"):
        secagg.unmask(cohort.states["ant"], cohort.signatures)  # t1 could be opened; but then the round fails anyway


def test_a_filter_with_contributors_to_spare_survives_a_dropout():
    cohort = announced(least_open=5, gone=["fox"], minimum=4)
    state = secagg.unmask(cohort.states["ant"], cohort.signatures)
    assert "common" in state.answer.seeds["bee"]


def test_a_former_contributor_that_was_not_even_asked_is_missing_too():
    own = {**OWN, "gnu": ("t1",)}
    setting = setting_of(
        own,
        parties=setting_of().parties,
        previous=tuple(sorted(own)),
        segments=(Segment(name="common", values=5, least_open=4), SEGMENTS[0]),
    )
    keys = Cohort(setting=setting, demands=Demands(minimum=4)).advertise().keys
    with pytest.raises(SmallCohortError, match="3 contributors left"):
        keys.check_open(setting.common, SITES)
    keys.check_open(setting.segments[1], SITES)


@pytest.mark.parametrize(("minimum", "colluders"), [(2, 0), (0, 0), (3, -1), (4097, 0), (3, 4097)])
def test_demands_that_protect_nobody_cannot_be(minimum, colluders):
    with pytest.raises(SmallCohortError, match="protects nobody"):
        Demands(minimum=minimum, colluders=colluders)


# -- at the coordinator ---------------------------------------------------------------------------------------------


def test_the_coordinator_refuses_a_stranger_s_keys_and_those_of_another_round():
    cohort = Cohort().advertise()
    secagg.check_advertisement(cohort.setting, cohort.advertisements[0])
    with pytest.raises(RosterError, match="spy is not in the roster"):
        secagg.check_advertisement(cohort.setting, replace(cohort.advertisements[0], site="spy"))
    with pytest.raises(SignatureError):
        secagg.check_advertisement(setting_of(attempt=2), cohort.advertisements[0])


def test_the_coordinator_refuses_malformed_bundles():
    cohort = shared_cohort()
    bundle = cohort.states["ant"].bundle
    secagg.check_bundle(cohort.keys, bundle)
    for wrong, words in (
        (replace(bundle, sealed={k: v for k, v in bundle.sealed.items() if k != "bee"}), "not for the other sites"),
        (replace(bundle, sealed={**bundle.sealed, "ant": bundle.sealed["bee"]}), "not for the other sites"),
        (replace(bundle, sealed={**bundle.sealed, "bee": b""}), "a part that is not of 115 bytes"),
        (replace(bundle, commitments=bundle.commitments[1:]), "has not 2 commitments"),
        (replace(bundle, commitments=(b"", b"")), "has not 2 commitments"),
    ):
        with pytest.raises(ShareError, match=words):
            secagg.check_bundle(cohort.keys, wrong)
    with pytest.raises(RosterError, match="spy advertised no keys"):
        secagg.check_bundle(cohort.keys, replace(bundle, site="spy"))


def test_the_coordinator_refuses_answers_of_the_wrong_kind():
    cohort = Cohort().advertise().share().mask(SITES[:5]).confirm().unmask()
    answer, share = cohort.states["ant"].answer, bytes(33)
    check = (cohort.keys, cohort.sharers, cohort.survivors)
    secagg.check_answer(*check, answer)
    for wrong, words in (
        (replace(answer, seeds={"fox": {"common": share}}), "share of fox for segment common"),
        (replace(answer, seeds={"ant": {"modality/t1": share}}), "share of ant for segment modality/t1"),
        (replace(answer, keys={"bee": share}), "mask key of bee, which did not drop out"),
        (replace(answer, keys={"zoo": share}), "mask key of zoo, which did not drop out"),
        (replace(answer, keys={"fox": b"\xff" * 33}), "no number below p"),
        (replace(answer, seeds={"ant": {"common": b""}}), "no number below p"),
    ):
        with pytest.raises(ShareError, match=words):
            secagg.check_answer(*check, wrong)
    with pytest.raises(RosterError, match="spy advertised no keys"):
        secagg.check_answer(*check, replace(answer, site="spy"))
