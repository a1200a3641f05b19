"""Whole rounds in memory: the sum is that of the survivors, whoever drops out where."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security import secagg
from security.errors import OpeningError
from security.secagg import Demands, dump_state, load_state
from security.secagg.opening import _Recoverer
from security.shamir import PRIME
from tests.security.secagg.cohort import LENIENT, OWN, SEGMENTS, Cohort, lying, setting_of, whole

SITES = tuple(sorted(OWN))


def test_the_sum_is_that_of_the_inputs():
    cohort = whole()
    sums = cohort.opened()
    assert list(sums) == [segment.name for segment in SEGMENTS]
    for name, total in sums.items():
        assert (total == cohort.plain(name)).all()


def test_no_masked_input_is_its_input_nor_shares_a_value_with_it():
    cohort = whole()
    for key, masked in cohort.masked.items():
        assert (masked == cohort.inputs[key]).mean() < 0.01


@given(st.data())
@settings(deadline=None, max_examples=30)
def test_whoever_drops_out_where_the_survivors_sum_is_opened(data):
    own = {f"s{n:02d}": OWN[SITES[n % 6]] for n in range(data.draw(st.integers(6, 9)))}
    cohort = Cohort(setting=setting_of(own)).advertise()
    spare = len(own) - (2 * len(own) // 3 + 1)
    gone = data.draw(st.lists(st.sampled_from(sorted(own)), max_size=spare, unique=True))
    at = {site: data.draw(st.sampled_from(("share", "mask", "confirm", "unmask"))) for site in gone}
    present = [site for site in sorted(own) if at.get(site) != "share"]
    cohort.share(present)
    cohort.mask([site for site in present if at.get(site) != "mask"])
    cohort.confirm([site for site in cohort.survivors if at.get(site) != "confirm"])
    answering = [site for site in cohort.survivors if at.get(site) not in ("confirm", "unmask")]
    cohort.unmask(answering)
    for name, total in cohort.opened().items():
        assert (total == cohort.plain(name)).all()


def test_a_segment_with_too_few_survivors_stays_closed_and_the_others_open():
    cohort = Cohort().advertise().share()
    cohort.mask([site for site in SITES if site != "fox"]).confirm().unmask()
    assert len(cohort.setting.members("modality/t1", cohort.survivors)) == 3
    strict = Cohort(demands=Demands(minimum=4)).advertise().share()
    strict.mask([site for site in SITES if site != "fox"]).confirm().unmask()
    opening = secagg.recover(strict.transcript)
    assert set(opening.contributors) == {"modality/flair", "common"}
    assert "has 3 sites; 4 are demanded (bee)" in opening.closed["modality/t1"]
    for name, total in strict.opened(opening).items():
        assert (total == strict.plain(name)).all()


def test_a_segment_without_any_survivor_stays_closed():
    own = {"ant": ("flair",), "bee": ("flair",), "cat": ("flair",), "dog": ("flair",), "eel": ("t1",)}
    cohort = Cohort(setting=setting_of(own)).advertise().share()
    cohort.mask(["ant", "bee", "cat", "dog"]).confirm().unmask()
    opening = secagg.recover(cohort.transcript)
    assert opening.closed["modality/t1"] == "segment modality/t1 has no site left"


def test_if_the_segment_of_all_stays_closed_nothing_is_opened():
    cohort = whole()
    few = replace(cohort.transcript, answers=cohort.transcript.answers[:4])
    with pytest.raises(OpeningError, match="the sum cannot be opened: the seed of ant for segment common has 4 shares"):
        secagg.recover(few)


@pytest.mark.parametrize("liar", SITES)
def test_a_site_with_wrong_shares_does_not_spoil_the_sum_and_is_named(liar):
    cohort = Cohort().advertise().share().mask(SITES).confirm().unmask()
    assert secagg.recover(cohort.transcript).liars == ()
    opening = secagg.recover(lying(cohort.transcript, liar))
    assert opening.liars == (liar,)
    for name, total in cohort.opened(opening).items():
        assert (total == cohort.plain(name)).all()


def test_wrong_shares_of_a_dropped_site_s_key_do_not_spoil_the_sum():
    own = {f"s{n}": ("flair", "t1") for n in range(8)}
    cohort = Cohort(setting=setting_of(own)).advertise().share()
    cohort.mask([f"s{n}" for n in range(1, 8)]).confirm().unmask()
    opening = secagg.recover(lying(cohort.transcript, "s3"))
    for name, total in cohort.opened(opening).items():
        assert (total == cohort.plain(name)).all()


def test_shares_that_make_no_secret_at_all_do_not_spoil_the_sum():
    """One share is such that the first set that is tried gives a number of more than 32 bytes."""
    cohort = whole()
    transcript, points = cohort.transcript, range(1, 6)
    shares = [int.from_bytes(a.seeds["ant"]["common"], "big") for a in transcript.answers[:5]]
    weights = [prod(-j * pow(i - j, -1, PRIME) for j in points if j != i) for i in points]  # Lagrange at 0
    rest = sum(weight * share for weight, share in zip(weights[1:], shares[1:], strict=True))
    wrong = ((1 << 256) + 5 - rest) * pow(weights[0], -1, PRIME) % PRIME
    first = transcript.answers[0]
    seeds = {**first.seeds, "ant": {**first.seeds["ant"], "common": wrong.to_bytes(33, "big")}}
    spoilt = replace(transcript, answers=(replace(first, seeds=seeds), *transcript.answers[1:]))
    recover = _Recoverer(spoilt)
    assert recover._seed("ant", "common") == cohort.states["ant"].seeds[1]


def test_too_many_wrong_shares_are_found_out_and_named():
    cohort = whole()
    with pytest.raises(OpeningError, match=r"the seed of ant for segment common cannot be recovered") as caught:
        secagg.recover(lying(cohort.transcript, "ant", "bee"))
    assert caught.value.sites == ("ant",)


def test_as_many_liars_as_can_be_spared_do_not_spoil_the_sum_of_a_small_cohort():
    """Nobody is named: as many could have lied so that others seem to."""
    own = {f"s{n}": ("flair", "t1") for n in range(10)}
    cohort = whole(setting=setting_of(own))
    opening = secagg.recover(lying(cohort.transcript, "s1", "s4", "s8"))
    assert opening.liars == ()
    assert (cohort.opened(opening)["common"] == cohort.plain("common")).all()


def test_two_liars_whose_lies_cancel_out_cannot_put_the_blame_on_others():
    """Their wrong shares fit with five honest ones, and the other three seem to be off."""
    own = {f"s{n}": ("flair",) for n in range(10)}
    cohort = whole(setting=setting_of(own, segments=(SEGMENTS[2],)))
    transcript, chosen = cohort.transcript, range(1, 8)
    weight = {i: prod(-j * pow(i - j, -1, PRIME) for j in chosen if j != i) for i in chosen}
    answers = {answer.site: answer for answer in transcript.answers}
    for site in own:
        true = [int.from_bytes(answers[liar].seeds[site]["common"], "big") for liar in ("s1", "s4")]
        for liar, value in (("s1", true[0] + weight[5]), ("s4", true[1] - weight[2])):
            share = (value % PRIME).to_bytes(33, "big")
            seeds = {**answers[liar].seeds, site: {"common": share}}
            answers[liar] = replace(answers[liar], seeds=seeds)
    recovered = secagg.recover(replace(transcript, answers=tuple(answers.values())))
    assert not set(recovered.liars) - {"s1", "s4"}
    assert (cohort.opened(recovered)["common"] == cohort.plain("common")).all()


def test_liars_are_found_in_a_cohort_with_too_many_sets_to_try():
    own = {f"s{n:02d}": ("flair",) for n in range(21)}
    cohort = whole(setting=setting_of(own, segments=(SEGMENTS[2],)))
    assert secagg.recover(lying(cohort.transcript, "s03", "s07")).liars == ("s03", "s07")


def test_too_many_liars_in_a_large_cohort_end_the_search():
    own = {f"s{n:02d}": ("flair",) for n in range(21)}
    cohort = whole(setting=setting_of(own, segments=(SEGMENTS[2],)))
    with pytest.raises(OpeningError, match="wrong shares were dealt or answered"):
        secagg.recover(lying(cohort.transcript, *sorted(own)[:7]))


def test_a_state_survives_its_stored_form_at_every_step():
    cohort = Cohort()

    def restart():
        for site, state in cohort.states.items():
            loaded = load_state(dump_state(state))
            assert loaded == state
            cohort.states[site] = loaded

    for step in (cohort.advertise, cohort.share, cohort.mask, cohort.confirm, cohort.unmask):
        step()
        restart()
    for name, total in cohort.opened().items():
        assert (total == cohort.plain(name)).all()


def test_a_strict_site_closes_the_segments_that_it_is_in_for_everybody():
    cohort = whole(stricter={"fox": Demands(minimum=6)})
    opening = secagg.recover(cohort.transcript)
    assert set(opening.contributors) == {"modality/flair", "common"}
    assert "modality/t1" not in cohort.states["ant"].answer.seeds["bee"]


def test_sites_whose_demands_nobody_can_meet_are_named():
    def named(**stricter):
        return secagg.too_demanding({site: stricter.get(site, LENIENT) for site in SITES})

    assert named() == ()
    assert named(ant=Demands(minimum=6)) == ()
    assert named(ant=Demands(minimum=7)) == ("ant",)
    assert named(ant=Demands(minimum=7), bee=Demands(minimum=6)) == ("ant", "bee")
    assert named(ant=Demands(minimum=3, colluders=4)) == ("ant",)
    assert named(ant=Demands(minimum=3, colluders=3), bee=Demands(minimum=6)) == ()
    assert named(**dict.fromkeys(SITES, Demands(minimum=9))) == SITES
    assert secagg.too_demanding({}) == ()


def test_a_site_that_demands_more_than_a_filter_has_contributors_is_named_unless_all_do():
    lenient = dict.fromkeys(SITES, LENIENT)
    strict = {**lenient, "bee": Demands(minimum=5)}
    assert secagg.too_demanding(strict, least_open=5, previous=SITES) == ()
    assert secagg.too_demanding(strict, least_open=4, previous=SITES) == ("bee",)
    assert secagg.too_demanding(dict.fromkeys(SITES, Demands(minimum=5)), least_open=4, previous=SITES) == ()
    assert secagg.too_demanding(strict, least_open=4, previous=(*SITES, "gnu", "hen")) == ()  # 2 left: nobody's fault


def test_nothing_secret_shows_in_what_is_printed():
    state = whole().states["ant"]
    shown = repr(state)
    for secret in (state.channel_private, state.mask_private, *state.seeds, *state.shares["bee"]):
        assert repr(secret) not in shown
        assert secret.hex() not in shown
    assert "seed" not in repr(state.answer)


def test_attempts_have_nothing_in_common():
    one, other = whole(), whole(setting=setting_of(attempt=2))
    assert one.keys.context != other.keys.context
    for key, masked in one.masked.items():
        assert (np.asarray(masked) == other.masked[key]).mean() < 0.05
    assert one.states["ant"].advertisement != other.states["ant"].advertisement
