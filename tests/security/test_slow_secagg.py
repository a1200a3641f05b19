"""The slow secure aggregation does what SPEC 9 to 11 say; its known answers are what it makes today."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from tests.security.make_secagg_vectors import texts
from tests.security.secagg_play import Play, expected_of, tampered
from tests.security.secagg_scenes import DROPOUTS, POLICIES, ROUND, draw, inputs_of
from tests.security.slow_demands import Demands
from tests.security.slow_secagg import Answer, advertise_message, keys_digest
from tests.security.slow_terms import Violation, prg, x25519_public

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


def with_least_open(scene, count):
    return {name: [values, count] for name, (values, _) in scene["segments"].items()}


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


# Sums


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene["name"])
def test_opened_sums_are_those_of_the_survivors_plain_vectors(scene):
    play = play_of(scene).run()
    assert play.sums == plain_sums(play, play.u3, play.sums)


@pytest.mark.parametrize("gone", ROUND["roster"])
@pytest.mark.parametrize("step", ["never_advertised", "never_shared", "never_masked"])
def test_one_of_five_may_drop_out_at_any_step_of_the_input(step, gone):
    play = play_of(ROUND, **{step: [gone]}, demands=[3, 0], segments=with_least_open(ROUND, 0)).run()
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


# What a site refuses


def advertised(scene=ROUND, **changed):
    play = play_of(scene, **changed)
    play.keys = [play.sites[i].advertise() for i in play.u1]
    return play


def resigned(play, at, **changed):
    """The advertisement of a site that signs something else."""
    said = replace(play.keys[at], **changed)
    site = play.sites[play.u1[at]]
    return replace(said, signature=site.identity.sign(advertise_message(site.ctx0, said)))


def swapped_key(play):
    play.keys[1] = replace(play.keys[1], mask=play.keys[2].channel)


def repeated_key(play):
    play.keys[1] = resigned(play, 1, mask=play.keys[2].channel)


def other_own_keys(play):
    play.keys[0] = resigned(play, 0, mask=x25519_public(draw("another")))


def other_demands(play):
    play.keys[1] = replace(play.keys[1], demands=Demands(minimum=4, colluders=1))


def too_low_a_minimum(play):
    play.keys[1] = resigned(play, 1, demands=Demands(minimum=2, colluders=1))


def too_high_a_minimum(play):
    play.keys[1] = resigned(play, 1, demands=Demands(minimum=4097, colluders=1))


def too_many_colluders(play):
    play.keys[1] = resigned(play, 1, demands=Demands(minimum=3, colluders=4097))


def other_own_demands(play):
    play.keys[0] = resigned(play, 0, demands=Demands(minimum=3, colluders=0))


@pytest.mark.parametrize(
    "change",
    [
        swapped_key,
        repeated_key,
        other_own_keys,
        other_own_demands,
        other_demands,
        too_low_a_minimum,
        too_high_a_minimum,
        too_many_colluders,
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


# The points of order 1, 2, 4 and 8 of the curve and of its twist, by u; p and p + 1 are 0 and 1 once more.
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
FIELD = 2**255 - 19
LOW_ORDER = [
    (u | top << 255).to_bytes(32, "little") for u in (0, 1, FIELD - 1, FIELD, FIELD + 1, *ORDER_8) for top in (0, 1)
]


@pytest.mark.parametrize("which", ["channel", "mask"])
@pytest.mark.parametrize("point", LOW_ORDER, ids=bytes.hex)
def test_r1_refuses_keys_of_low_order_though_they_are_signed(point, which):
    play = advertised()
    play.keys[1] = resigned(play, 1, **{which: point})
    with pytest.raises(Violation, match=r"^SPEC 10\.3: a public key is of low order$"):
        play.sites["A-hospital"].share(play.keys)


def test_an_advertisement_ends_with_the_minimum_and_the_colluders():
    said = play_of(POLICIES).sites["b2"].advertise()
    eight = bytes(7) + b"\x08"
    assert advertise_message(bytes(32), said).endswith(eight + bytes(7) + b"\x05" + eight + bytes(7) + b"\x02")


def test_the_context_of_the_keys_binds_what_each_site_demands():
    play = advertised()
    ctx0 = play.setting.ctx0()
    seen = {keys_digest(ctx0, play.keys)}
    for demands in (Demands(minimum=4, colluders=1), Demands(minimum=3, colluders=2)):
        seen.add(keys_digest(ctx0, [replace(play.keys[0], demands=demands), *play.keys[1:]]))
    assert len(seen) == 3


def test_r1_refuses_demands_below_the_lists_minimum_cohort():
    play = advertised()
    site = play.sites["A-hospital"]
    site.setting = replace(site.setting, membership=replace(site.setting.membership, minimum_cohort=4))
    with pytest.raises(Violation, match=r"^SPEC 10\.3: A-hospital demands what it must not$"):
        site.share(play.keys)


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
    play = advertised(demands=[5, 1])
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
