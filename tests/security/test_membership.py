"""Membership lists: one form, one signer, never backwards."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from security import keys
from security.errors import MembershipError, SecurityError
from security.membership import Member, MembershipList, SignedMembership, check_succession, diff, sign, verify
from security.membership_file import from_json, to_json, unsigned_from_json, unsigned_to_json

VECTOR = json.loads((Path(__file__).parent / "vectors" / "membership.json").read_text())
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = keys.public_bytes(KEY)


@pytest.fixture
def make(now, day):
    def member(site, key=None, modalities=("flair", "t1")):
        key = key or bytes([ord(site[-1])]) * 32
        return Member(site=site, identity_key=key, modalities=modalities, valid_from=now, valid_until=now + 365 * day)

    return member


@pytest.fixture
def members(make, now):
    return MembershipList(
        consortium="brain.example", version=3, issued_at=now, members=(make("a"), make("b", modalities=("t2",)))
    )


def check(signed, now, version=0, public=PUBLIC, consortium="brain.example"):
    return verify(signed, public, consortium=consortium, at_least_version=version, now=now)


def test_known_answer():
    signed = from_json(json.dumps(VECTOR["signed"]).encode())
    assert signed.unverified.encoded.hex() == VECTOR["encoded"]
    assert signed.unverified.digest == VECTOR["digest"]
    assert sign(signed.unverified, KEY).signature.hex() == VECTOR["signed"]["signature"]
    now = datetime.fromisoformat(VECTOR["signed"]["issued_at"])
    assert check(signed, now) == signed.unverified


def test_a_signed_list_survives_its_file(members, now):
    assert check(from_json(to_json(sign(members, KEY))), now) == members
    assert unsigned_from_json(unsigned_to_json(members)) == members


@pytest.mark.parametrize("version", [0, 2, 3])
def test_a_list_as_new_as_the_newest_seen_is_accepted(members, now, version):
    assert check(sign(members, KEY), now, version).version == 3


def test_a_rollback_is_refused(members, now):
    with pytest.raises(MembershipError, match="version 4 was seen already"):
        check(sign(members, KEY), now, version=4)


@pytest.mark.parametrize(
    "change",
    [
        lambda made, _: replace(made, version=4),
        lambda made, _: replace(made, minimum_cohort=3),
        lambda made, _: replace(made, members=made.members[:1]),
        lambda made, _: replace(made, members=()),
        lambda made, day: replace(made, issued_at=made.issued_at - day),
        lambda made, _: replace(made, members=(replace(made.members[0], identity_key=bytes(32)), made.members[1])),
        lambda made, _: replace(made, members=(replace(made.members[0], modalities=("flair",)), made.members[1])),
        lambda made, _: replace(made, members=(replace(made.members[0], site="Z"), made.members[1])),
        lambda made, day: replace(
            made, members=(replace(made.members[0], valid_until=made.members[0].valid_until + day), made.members[1])
        ),
    ],
)
def test_every_change_breaks_the_signature(members, now, day, change):
    signature = sign(members, KEY).signature
    with pytest.raises(MembershipError, match="not signed by the pinned"):
        check(SignedMembership(unverified=change(members, day), signature=signature), now)


def test_another_signer_or_consortium_is_refused(members, now):
    with pytest.raises(MembershipError, match="not signed by the pinned"):
        check(sign(members, keys.make_signing_key()), now)
    with pytest.raises(MembershipError, match=r"is for brain\.example, not for heart\.example"):
        check(sign(members, KEY), now, consortium="heart.example")


def test_a_list_from_the_future_says_check_the_clock(members, now, day):
    check(sign(members, KEY), now - timedelta(minutes=4))
    with pytest.raises(MembershipError, match="NTP"):
        check(sign(members, KEY), now - day)


def test_duplicates_and_disorder_cannot_be_constructed(members, make):
    for sites, problem in [
        ((make("a"), make("a")), "site a is listed twice"),
        ((make("b"), make("a")), "not sorted"),
        ((make("a"), make("b", key=make("a").identity_key)), "two sites have the identity key"),
    ]:
        with pytest.raises(MembershipError, match=problem):
            replace(members, members=sites)
    for field in ({"version": 0}, {"version": 2**64}, {"consortium": "No Name"}):
        with pytest.raises(MembershipError):
            replace(members, **field)


@pytest.mark.parametrize("sites", [3, 4, 4096])
def test_a_minimum_cohort_in_its_range_survives_the_file(members, now, sites):
    listed = replace(members, minimum_cohort=sites)
    assert check(from_json(to_json(sign(listed, KEY))), now).minimum_cohort == sites
    assert unsigned_from_json(unsigned_to_json(listed)) == listed


def test_the_minimum_cohort_is_four_unless_said_otherwise(members):
    assert members.minimum_cohort == 4


@pytest.mark.parametrize("sites", [-1, 0, 1, 2])
def test_a_minimum_cohort_below_three_is_refused_with_the_reason(members, sites):
    with pytest.raises(MembershipError, match=f"minimum cohort {sites} is below 3: of a sum over two sites"):
        replace(members, minimum_cohort=sites)
    document = json.loads(to_json(sign(members, KEY))) | {"minimum_cohort": sites}
    with pytest.raises(MembershipError, match="is below 3"):
        from_json(json.dumps(document).encode())


def test_a_minimum_cohort_above_its_range_is_refused(members):
    with pytest.raises(MembershipError, match="4097 is above 4096"):
        replace(members, minimum_cohort=4097)


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (4, 3, "! minimum cohort 4 -> 3: sums over three sites become possible"),
        (6, 4, "! minimum cohort 6 -> 4: sums over 4 sites become possible"),
        (3, 5, "! minimum cohort 3 -> 5: sums over fewer than 5 sites are no longer possible"),
    ],
)
def test_a_diff_is_loud_about_another_minimum_cohort(members, before, after, line):
    old, new = replace(members, minimum_cohort=before), replace(members, minimum_cohort=after, version=4)
    assert diff(old, new) == ("version 3 -> 4", line)


def test_a_diff_is_loud_about_a_first_list_below_the_default(members):
    lines = diff(None, replace(members, minimum_cohort=3))
    assert lines[1] == "! minimum cohort 4 -> 3: sums over three sites become possible"
    assert not [line for line in diff(None, members) if line.startswith("!")]


def test_a_list_from_before_the_minimum_cohort_says_sign_a_new_one(members):
    for document, read in ((to_json(sign(members, KEY)), from_json), (unsigned_to_json(members), unsigned_from_json)):
        old = json.loads(document)
        del old["minimum_cohort"]
        with pytest.raises(MembershipError, match=r"no minimum cohort.*sign a new one"):
            read(json.dumps(old).encode())


@pytest.mark.parametrize(
    "field",
    [
        {"site": "../a"},
        {"identity_key": bytes(31)},
        {"modalities": ()},
        {"modalities": ("t2", "t1")},
        {"modalities": ("t1", "t1")},
        {"modalities": ("t 1",)},
    ],
)
def test_malformed_members_cannot_be_constructed(make, field):
    with pytest.raises(MembershipError):
        replace(make("a"), **field)


def test_a_membership_that_ends_before_it_begins_is_refused(make, now):
    with pytest.raises(MembershipError, match="ends before"):
        replace(make("a"), valid_until=now)


def test_only_current_members_are_found(members, now, day):
    assert members.member("a", now).site == "a"
    with pytest.raises(MembershipError, match="not on the membership list 3"):
        members.member("c", now)
    for at in (now - day, now + 365 * day):
        with pytest.raises(MembershipError, match="lasts from"):
            members.member("a", at)


def test_two_lists_of_one_version_raise_the_alarm(members):
    check_succession(members, members)
    check_succession(members, replace(members, version=4))
    with pytest.raises(MembershipError, match="older than"):
        check_succession(members, replace(members, version=2))
    with pytest.raises(MembershipError, match="two different signed"):
        check_succession(members, replace(members, members=()))


def test_a_diff_says_all_that_changes(members, make, day):
    first = diff(None, members)
    assert first[0] == "version 0 -> 3"
    assert [line[:3] for line in first[1:]] == ["+ a", "+ b"]
    changed = replace(make("a", key=bytes(32), modalities=("t1",)), valid_until=make("a").valid_until + day)
    lines = diff(members, replace(members, version=4, members=(changed, make("c"))))
    assert [line[:3] for line in lines[1:]] == ["~ a", "~ a", "~ a", "- b", "+ c"]
    assert f"-> identity key {'00' * 32}" in lines[1]
    assert "modalities flair, t1 -> modalities t1" in lines[2]
    assert diff(members, members) == ("version 3 -> 3",)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"\xff",
        b"{" * 100_000,
        b'{"signature": "00", "signature": "00"}',
        b'{"signature": NaN}',
        b'{"signature": 3}',
        b'{"signature": "00"}',
        b" " * 1_100_000,
    ],
)
def test_malformed_files_are_refused(damage):
    with pytest.raises(MembershipError, match="malformed"):
        from_json(damage)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", True),
        ("version", "3"),
        ("minimum_cohort", True),
        ("minimum_cohort", "4"),
        ("minimum_cohort", 3.5),
        ("issued_at", "2030-01-01T00:00:00"),
        ("issued_at", "1960-01-01T00:00:00+00:00"),
        ("members", [3]),
        ("members", [{"site": "a"}]),
        ("surprise", 1),
    ],
)
def test_wrong_fields_in_files_are_refused(members, name, value):
    document = json.loads(to_json(sign(members, KEY))) | {name: value}
    with pytest.raises(SecurityError):
        from_json(json.dumps(document).encode())


def test_an_unsigned_file_is_refused(members):
    with pytest.raises(MembershipError, match="not signed"):
        from_json(unsigned_to_json(members))
    with pytest.raises(MembershipError, match="malformed"):
        unsigned_from_json(b"{}")
