"""The slow secure aggregation does what SPEC 9 to 12 say; its known answers are what it makes today."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from tests.security.make_secagg_vectors import texts
from tests.security.secagg_play import Play, expected_of, membership_of, tampered
from tests.security.secagg_scenes import DROPOUTS, POLICIES, ROUND, draw, draw_below_p, inputs_of
from tests.security.slow_secagg import Answer, Policy, advertise_message, is_open
from tests.security.slow_terms import (
    P,
    Violation,
    digest,
    frame,
    prg,
    shamir_recover,
    shamir_share,
    threshold,
    x25519_public,
)

FOLDER = Path(__file__).parent / "vectors"
SCENES = (ROUND, DROPOUTS, POLICIES)


def play_of(scene, **changed):
    return Play(inputs_of(scene | changed))


def plain_sums(play, survivors, segments):
    """What the survivors' vectors add up to, without any mask."""
    return {
        name: [
            sum(column) % 2**32
            for column in zip(*(play.vectors[i][name] for i in survivors if name in play.vectors[i]), strict=True)
        ]
        for name in segments
    }


def vector_file(name):
    return json.loads((FOLDER / name).read_text())


def refused(clause):
    return pytest.raises(Violation, match=rf"^SPEC {clause}:")


# Known answers


def test_the_known_answers_are_made_again_byte_for_byte():
    made = texts()
    assert made == {name: (FOLDER / name).read_text() for name in made}


@pytest.mark.parametrize("name", ["round", "dropouts", "policies"])
def test_the_inputs_in_a_file_are_all_that_its_answers_need(name):
    vector = vector_file(f"secagg_{name}.json")
    assert expected_of(Play(vector["inputs"]).run()) == vector["expected"]


def test_frames_and_digests_agree_with_the_known_answers_of_the_encoding():
    for case in vector_file("encoding.json"):
        given = case["label"], case["version"], *map(bytes.fromhex, case["parts"])
        assert (frame(*given).hex(), digest(*given).hex()) == (case["frame"], case["digest"])


def test_the_membership_list_agrees_with_its_known_answer():
    vector = vector_file("membership.json")
    listed = membership_of(vector["signed"])
    assert (listed.encode().hex(), listed.digest().hex()) == (vector["encoded"], vector["digest"])


# Sums


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene["name"])
def test_opened_sums_are_those_of_the_survivors_plain_vectors(scene):
    play = play_of(scene).run()
    assert play.sums == plain_sums(play, play.u3, play.sums)


@pytest.mark.parametrize("gone", ROUND["roster"])
@pytest.mark.parametrize("step", ["never_advertised", "never_shared", "never_masked"])
def test_one_of_five_may_drop_out_at_any_step_of_the_input(step, gone):
    play = play_of(ROUND, **{step: [gone]}, colluders=0, segments=with_least_open(ROUND, 0)).run()
    assert play.u3 == [site for site in ROUND["roster"] if site != gone]
    assert play.sums == plain_sums(play, play.u3, play.sums)
    assert "common" in play.sums


@pytest.mark.parametrize("gone", list(combinations(DROPOUTS["roster"], 2)), ids=",".join)
def test_two_of_seven_may_drop_out_one_at_the_shares_and_one_at_the_masked_input(gone):
    shared, masked = gone
    play = play_of(DROPOUTS, never_shared=[shared], never_masked=[masked]).run()
    assert play.sums == plain_sums(play, play.u3, play.sums)


def test_sites_may_drop_out_of_the_signatures_and_of_the_answers():
    play = play_of(ROUND).run()
    signers, answering = ["A-hospital", "b1", "b10", "c_x"], ["b1", "b10", "b2", "c_x"]
    signatures = {i: play.signatures[i] for i in signers}
    answers = {i: play.sites[i].unmask(signatures) for i in answering}
    assert play.opening(answers).sums(play.inputs["contributors_at"]) == play.sums


def test_fewer_than_t_answers_open_nothing():
    play = play_of(ROUND).run()
    with refused("11.1"):
        play.opening({i: play.answers[i] for i in ["b1", "b10", "b2"]})


def test_a_masked_vector_is_neither_the_plain_one_nor_that_with_one_kind_of_mask():
    play = play_of(ROUND).run()
    at_hand = vector_file("secagg_round.json")["expected"]
    for site, masked in play.masked.items():
        for name, y in masked.items():
            alone = prg(bytes.fromhex(at_hand["self_keys"][site][name]), len(y))
            left = [(a - b) % 2**32 for a, b in zip(y, alone, strict=True)]
            assert play.vectors[site][name] not in (y, left)


# Thin segments


@pytest.mark.parametrize("scene", [DROPOUTS, POLICIES], ids=lambda scene: scene["name"])
def test_a_thin_segment_stays_closed_and_no_share_of_its_seeds_is_given(scene):
    play = play_of(scene).run()
    assert "modality/t1" not in play.sums
    assert len(play.sums) == len(scene["segments"]) - 1
    given = {segment for answer in play.answers.values() for _, segment in answer.seeds}
    assert given == set(play.sums)


def test_a_site_that_finds_a_segment_too_thin_gives_no_share_of_it_where_others_do():
    play = play_of(POLICIES).run()
    giving = {site for site, answer in play.answers.items() if ("b1", "modality/t2") in answer.seeds}
    assert giving == {"b1", "b10", "b2", "c_x"}


def test_a_segment_that_too_few_sites_find_open_stays_closed():
    policies = {"A-hospital": ["b1", "b10"], "b1": ["A-hospital", "b10"]}
    play = play_of(POLICIES, policies=policies).run()
    assert "modality/t2" not in play.sums
    assert "common" in play.sums


def test_who_announced_and_is_gone_closes_a_slot_that_would_become_thin():
    play = play_of(POLICIES)
    thin = next(g for g in play.setting.segments if g.name == "modality/t1")
    policy = Policy(minimum=3, colluders=0)
    opened = {n: is_open(play.setting, replace(thin, least_open=n), play.u3, "b1", policy) for n in (0, 1, 4, 5, 6)}
    assert opened == {0: True, 1: False, 4: False, 5: True, 6: True}


@pytest.mark.parametrize(
    ("policy", "opens"),
    [
        (Policy(minimum=0, colluders=0), True),
        (Policy(minimum=4, colluders=2), True),
        (Policy(minimum=5, colluders=0), False),
        (Policy(minimum=3, colluders=3), False),
        (Policy(minimum=3, colluders=0, approved=("b1", "b10")), True),
        (Policy(minimum=3, colluders=0, approved=("A-hospital", "b1")), False),
        (Policy(minimum=3, colluders=2, approved=("b1", "b10")), False),
    ],
)
def test_a_segment_is_open_by_the_sites_own_policy(policy, opens):
    play = play_of(ROUND, segments=with_least_open(ROUND, 0))
    flair = play.setting.segments[0]
    assert is_open(play.setting, flair, ["A-hospital", "b1", "b10", "c_x"], "A-hospital", policy) is opens


def test_no_policy_goes_below_the_lists_minimum_cohort():
    play = play_of(ROUND, segments=with_least_open(ROUND, 0))
    setting = replace(play.setting, membership=replace(play.setting.membership, minimum_cohort=5))
    common = setting.segments[-1]
    assert is_open(setting, common, ROUND["roster"], "b1", Policy(minimum=3, colluders=0))
    assert not is_open(setting, common, ROUND["roster"][:4], "b1", Policy(minimum=3, colluders=0))


def with_least_open(scene, count):
    return {name: [values, count] for name, (values, _) in scene["segments"].items()}


# What a site refuses


def advertised(scene=ROUND, **changed):
    play = play_of(scene, **changed)
    play.keys = [play.sites[i].advertise() for i in play.u1]
    return play


def resigned(play, at, **changed):
    """The advertisement of a site that signs something else."""
    said = replace(play.keys[at], **changed)
    site = play.sites[play.u1[at]]
    return replace(said, signature=site.identity.sign(advertise_message(site.ctx0, said.site, said.channel, said.mask)))


def swapped_key(play):
    play.keys[1] = replace(play.keys[1], mask=play.keys[2].channel)


def repeated_key(play):
    play.keys[1] = resigned(play, 1, mask=play.keys[2].channel)


def other_own_keys(play):
    play.keys[0] = resigned(play, 0, mask=x25519_public(draw("another")))


@pytest.mark.parametrize(
    "change",
    [
        swapped_key,
        repeated_key,
        other_own_keys,
        lambda play: play.keys.reverse(),
        lambda play: play.keys.append(play.keys[-1]),
        lambda play: play.keys.pop(0),
        lambda play: play.keys.__setitem__(slice(2, None), []),
    ],
)
def test_r1_refuses_keys_that_are_not_as_they_must_be(change):
    play = advertised()
    change(play)
    with refused("10.3"):
        play.sites["A-hospital"].share(play.keys)


def test_r1_refuses_keys_that_were_signed_about_another_setting():
    play, other = advertised(), advertised(round=[3, 2])
    with refused("10.3"):
        play.sites["A-hospital"].share([play.keys[0], *other.keys[1:]])


def test_r1_refuses_a_site_that_was_not_asked():
    play, smaller = advertised(), play_of(ROUND, roster=ROUND["roster"][:4])
    site = smaller.sites["A-hospital"]
    site.advertise()
    with refused("10.3"):
        site.share(play.keys)


def shared(scene=ROUND, **changed):
    play = advertised(scene, **changed)
    play.bundles = {i: play.sites[i].share(play.keys) for i in play.u2}
    return play


@pytest.mark.parametrize(
    "u2",
    [
        ["A-hospital", "b1", "b10"],
        ["b1", "b10", "b2", "c_x"],
        ["b1", "A-hospital", "b10", "b2", "c_x"],
        ["A-hospital", "b1", "b10", "b2", "b2"],
        ["A-hospital", "b1", "b10", "d.away"],
    ],
)
def test_r2_refuses_sharers_that_are_not_as_they_must_be(u2):
    play = shared()
    with refused("10.5"):
        play.sites["A-hospital"].mask(u2, play.received("A-hospital"), play.vectors["A-hospital"])


def test_r2_goes_on_without_the_shares_of_a_bundle_that_does_not_open():
    play = play_of(POLICIES).run()
    assert "c_x" not in play.sites["A-hospital"].held
    assert "c_x" in play.sites["b1"].held


@pytest.mark.parametrize("shares", [b"\xff" * 33 * 3, bytes(33 * 2), bytes(33 * 4), bytes(33 * 3 - 1), b""])
def test_r2_goes_on_without_shares_that_are_malformed(shares):
    play = advertised()
    liar, site = play.sites["b1"], play.sites["A-hospital"]
    liar.plaintext = lambda receiver: shares
    play.bundles = {i: play.sites[i].share(play.keys) for i in play.u2}
    site.mask(play.u2, play.received("A-hospital"), play.vectors["A-hospital"])
    assert sorted(site.held) == ["A-hospital", "b10", "b2", "c_x"]


def test_r1_and_r2_refuse_to_go_on_where_common_would_stay_closed():
    play = advertised(minimum=5)
    with refused("10.3"):
        play.sites["A-hospital"].share([a for a in play.keys if a.site != "c_x"])
    play.bundles = {i: play.sites[i].share(play.keys) for i in play.u2}
    with refused("10.5"):
        play.sites["A-hospital"].mask(play.u2[:4], play.received("A-hospital"), play.vectors["A-hospital"])


def masked(scene=ROUND, **changed):
    play = shared(scene, **changed)
    play.masked = {i: play.sites[i].mask(play.u2, play.received(i), play.vectors[i]) for i in play.u3}
    return play


@pytest.mark.parametrize(
    "u3",
    [
        ["A-hospital", "b1", "b10"],
        ["b1", "b10", "b2", "c_x"],
        ["A-hospital", "b1", "b2", "b10"],
        ["A-hospital", "b1", "b10", "b10", "b2"],
        ["A-hospital", "b1", "b10", "d.away"],
    ],
)
def test_r3_refuses_survivors_that_are_not_as_they_must_be(u3):
    play = masked()
    with refused("10.8"):
        play.sites["A-hospital"].confirm(u3)


def test_r4_answers_only_to_t_signatures_over_the_same_survivors():
    play = masked()
    views = {"A-hospital": play.u3[:4], "b1": play.u3[:4], "b10": play.u3[:4], "b2": play.u3, "c_x": play.u3}
    signatures = {i: play.sites[i].confirm(view) for i, view in views.items()}
    for site in play.u3:
        signed_alike = {i: s for i, s in signatures.items() if i in views[site]}
        with refused("10.9"):
            play.sites[site].unmask(signed_alike)


def test_r4_counts_no_signature_that_another_made():
    play = play_of(ROUND).run()
    borrowed = dict.fromkeys(play.u3, play.signatures["b1"])
    with refused("10.9"):
        play.sites["A-hospital"].unmask(borrowed)


def test_r4_gives_one_kind_of_share_per_site():
    play = play_of(DROPOUTS).run()
    for answer in play.answers.values():
        assert {site for site, _ in answer.seeds} == set(play.u3)
        assert set(answer.masks) == {"delta"}


# What the coordinator refuses


def test_a_false_share_is_found_out_by_other_answers():
    play = play_of(ROUND, false_shares=[["b1", "b10", "common"]]).run()
    assert play.sums == plain_sums(play, play.u3, ROUND["segments"])


def test_two_false_shares_of_five_fail_the_round_and_name_whose_secret_it_was():
    with pytest.raises(Violation, match=r"11\.1: b10's seed for common could not be recovered"):
        play_of(ROUND, false_shares=[["b1", "b10", "common"], ["b2", "b10", "common"]]).run()


def test_the_mask_key_of_a_dropped_site_is_recovered_as_it_was_drawn():
    play = play_of(DROPOUTS).run()
    assert play.opening(play.answers).masks == {"delta": play.sites["delta"].draws.mask}


def test_a_false_share_of_a_mask_key_fails_the_round_where_t_answers_are_all_there_are():
    play = play_of(DROPOUTS).run()
    said = play.answers["b1"]
    false = Answer(seeds=said.seeds, masks={"delta": tampered(said.masks["delta"])})
    with pytest.raises(Violation, match=r"11\.1: delta's mask key could not be recovered"):
        play.opening(play.answers | {"b1": false})


def test_a_sum_that_says_another_number_of_contributors_is_discarded():
    play = play_of(ROUND)
    play.vectors["b1"]["common"][-1] = 2
    with refused("11.3"):
        play.run()


def test_a_round_without_common_fails():
    play = play_of(ROUND).run()
    without = {
        i: Answer(seeds={k: v for k, v in a.seeds.items() if k[1] != "common"}, masks=a.masks)
        for i, a in play.answers.items()
    }
    with refused("11.2"):
        play.opening(without).sums(play.inputs["contributors_at"])


# Secret sharing


def test_t_follows_from_n():
    assert [threshold(n) for n in (3, 4, 5, 6, 7, 9, 10, 100)] == [3, 3, 4, 5, 5, 7, 7, 67]


def test_any_t_shares_recover_the_secret():
    secret, coefficients = draw("any t"), [draw_below_p(f"any t|c{i}") for i in range(1, 4)]
    shares = {x: shamir_share(secret, coefficients, x) for x in range(1, 7)}
    recovered = {shamir_recover({x: shares[x] for x in xs}) for xs in combinations(shares, 4)}
    assert recovered == {secret}


def test_fewer_than_t_shares_fit_every_secret():
    """For two of three shares and any secret there is a polynomial; here the one for zero is made and checked."""
    shares = {x: shamir_share(draw("fewer"), [draw_below_p("fewer|c1"), draw_below_p("fewer|c2")], x) for x in (1, 2)}
    y1, y2 = (int.from_bytes(share, "big") for share in shares.values())
    c2 = (y2 - 2 * y1) * pow(2, -1, P) % P
    c1 = (y1 - c2) % P
    assert {x: shamir_share(bytes(32), [c1, c2], x) for x in (1, 2)} == shares


@pytest.mark.parametrize("case", vector_file("shamir.json")["refused"], ids=lambda case: case["name"])
def test_recovery_refuses_malformed_shares_and_results_that_are_no_secret(case):
    with refused("12.2"):
        shamir_recover({int(x): bytes.fromhex(share) for x, share in case["shares"].items()})
