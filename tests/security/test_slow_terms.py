"""What the slow secure aggregation is written in agrees with known answers, and shares secrets as SPEC 12 has it."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest

from tests.security.secagg_play import membership_of
from tests.security.secagg_scenes import draw, draw_below_p
from tests.security.slow_terms import (
    P,
    Violation,
    digest,
    frame,
    low_order,
    shamir_recover,
    shamir_share,
    threshold,
)

FOLDER = Path(__file__).parent / "vectors"


def vector_file(name):
    return json.loads((FOLDER / name).read_text())


def test_frames_and_digests_agree_with_the_known_answers_of_the_encoding():
    for case in vector_file("encoding.json"):
        given = case["label"], case["version"], *map(bytes.fromhex, case["parts"])
        assert (frame(*given).hex(), digest(*given).hex()) == (case["frame"], case["digest"])


def test_the_membership_list_agrees_with_its_known_answer():
    vector = vector_file("membership.json")
    listed = membership_of(vector["signed"])
    assert (listed.encode().hex(), listed.digest().hex()) == (vector["encoded"], vector["digest"])


@pytest.mark.parametrize("u", [2, 9, 2**255 - 21])
def test_other_points_are_not_of_low_order(u):
    assert not low_order(u.to_bytes(32, "little"))


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
    with pytest.raises(Violation, match=r"^SPEC 12\.2:"):
        shamir_recover({int(x): bytes.fromhex(share) for x, share in case["shares"].items()})
