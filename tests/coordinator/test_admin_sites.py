"""Tokens, sites and the signed list by `fedmepd-admin`, against a served coordinator, over mutual TLS."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.coordinator.admin_at_hand import listed, site
from tests.coordinator.served import Served, served


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture
def fed(_shared: Served) -> Served:
    _shared.runs.scene = None
    return _shared


def test_tokens_are_listed_and_revoked(fed: Served) -> None:
    made = json.loads(fed.admin("tokens", "create", "ida", "--modalities", "t1, flair", "--json").out)
    assert made["modalities"] == ["flair", "t1"]
    (found,) = [t for t in listed(fed, "tokens", "list") if t["id"] == "ida"]
    assert (found["role"], found["state"]) == ("site", "open")
    assert fed.admin("tokens", "revoke", made["token_id"], "--yes").code == 0
    assert made["token_id"] in fed.admin("tokens", "list").out
    assert fed.admin("tokens", "revoke", "0" * 16, "--yes").code == 2


def test_from_an_enrolled_site_to_a_member_and_out_again(fed: Served) -> None:
    site(fed, "jena", "flair", "t1")
    assert [s["state"] for s in listed(fed, "sites", "list") if s["id"] == "jena"] == ["enrolled"]
    where = ("--consortium-dir", fed.folder / "consortium")
    said = fed.admin("membership", "sign", *where, "--yes")
    assert said.code == 0, said.err
    assert "new" in said.out
    assert "jena" in said.out
    assert "is in force" in said.out
    assert [s["state"] for s in listed(fed, "sites", "list") if s["id"] == "jena"] == ["member"]
    assert "nothing has changed" in fed.admin("membership", "sign", *where, "--yes").out
    assert "jena" in fed.admin("membership", "show").out
    assert fed.admin("sites", "revoke", "jena", "--reason", "laptop lost", "--yes").code == 0
    assert fed.runs.revocations[-1] == ("jena", "laptop lost")
    gone = fed.admin("membership", "sign", *where, "--yes")
    assert "gone" in gone.out
    assert json.loads(fed.admin("membership", "show", "--json").out)["members"] == []


def test_a_list_is_signed_on_another_machine(fed: Served) -> None:
    site(fed, "kiel", "t2")
    plain, signed = fed.folder / "list.json", fed.folder / "signed.json"
    assert fed.admin("membership", "prepare", plain).code == 0
    words = (plain, "--consortium-dir", fed.folder / "consortium", "--out", signed, "--yes")
    offline = fed.admin("membership", "sign", *words, who="nobody")
    assert offline.code == 0, offline.err
    assert fed.admin("membership", "publish", plain).code == 2
    said = fed.admin("membership", "publish", signed)
    assert "is in force" in said.out
    assert "kiel" in fed.registry.admitted_sites()


def cohort_in_force(fed: Served) -> int:
    return int(json.loads(fed.admin("membership", "show", "--json").out)["minimum_cohort"])


def test_the_minimum_cohort_is_changed_loudly_and_stays_until_it_is_changed_again(fed: Served) -> None:
    site(fed, "nice", "t1")
    where = ("--consortium-dir", fed.folder / "consortium", "--yes")
    assert fed.admin("membership", "sign", *where).code == 0
    assert cohort_in_force(fed) == 4
    said = fed.admin("membership", "sign", *where, "--minimum-cohort", "3")
    assert said.code == 0, said.err
    assert "! minimum cohort 4 -> 3: sums over three sites become possible" in said.out.splitlines()
    assert cohort_in_force(fed) == 3
    assert "minimum cohort 3: nothing is summed over fewer sites" in fed.admin("membership", "show").out
    assert "nothing has changed" in fed.admin("membership", "sign", *where).out
    site(fed, "oslo", "t1")
    kept = fed.admin("membership", "sign", *where)
    assert (kept.code, "!" in kept.out, ", minimum cohort 3\n" in kept.out) == (0, False, True)
    assert cohort_in_force(fed) == 3
    raised = fed.admin("membership", "sign", *where, "--minimum-cohort", "4")
    assert "! minimum cohort 3 -> 4: sums over fewer than 4 sites are no longer possible" in raised.out


def test_where_the_key_is_a_prepared_minimum_cohort_below_the_default_is_loud(fed: Served) -> None:
    plain, signed = fed.folder / "low.json", fed.folder / "low-signed.json"
    assert fed.admin("membership", "prepare", plain, "--minimum-cohort", "3").code == 0
    words = (plain, "--consortium-dir", fed.folder / "consortium", "--out", signed, "--yes")
    said = fed.admin("membership", "sign", *words, who="nobody")
    assert "! minimum cohort 4 -> 3: sums over three sites become possible" in said.out
    assert json.loads(signed.read_text())["minimum_cohort"] == 3
    assert fed.admin("membership", "sign", *words, "--minimum-cohort", "5", who="nobody").code == 0
    assert json.loads(signed.read_text())["minimum_cohort"] == 5


def test_a_minimum_cohort_below_three_is_refused_before_anything_is_asked(fed: Served) -> None:
    for words in (("sign", "--consortium-dir", fed.folder / "nowhere"), ("prepare", fed.folder / "never.json")):
        said = fed.admin("membership", *words, "--minimum-cohort", "2", who="nobody")
        assert (said.code, "is below 3: of a sum over two sites" in said.err) == (2, True)


def test_a_prepared_list_from_before_the_minimum_cohort_is_refused(fed: Served) -> None:
    plain = fed.folder / "old.json"
    assert fed.admin("membership", "prepare", plain).code == 0
    old = json.loads(plain.read_text())
    del old["minimum_cohort"]
    plain.write_text(json.dumps(old))
    said = fed.admin("membership", "sign", plain, "--consortium-dir", fed.folder / "consortium", "--yes", who="nobody")
    assert (said.code, "sign a new one" in said.err) == (2, True)


def test_a_site_is_approved_by_its_id(fed: Served) -> None:
    site(fed, "lyon", "t1", approval=True)
    assert [s["state"] for s in listed(fed, "sites", "list") if s["id"] == "lyon"] == ["awaiting approval"]
    said = fed.admin("sites", "approve", "lyon")
    assert said.code == 0, said.err
    assert [s["state"] for s in listed(fed, "sites", "list") if s["id"] == "lyon"] == ["enrolled"]


def test_a_member_stays_until_its_replacement_enrols(fed: Served) -> None:
    site(fed, "metz", "t1")
    refused = fed.admin("tokens", "create", "metz")
    assert (refused.code, "--replace" in refused.err) == (2, True)
    assert fed.admin("tokens", "create", "metz", "--replace").code == 0
    (before,) = (s for s in listed(fed, "sites", "list") if s["id"] == "metz")
    assert before["state"] == "enrolled"
    (token,) = (t for t in listed(fed, "tokens", "list") if t["id"] == "metz" and t["state"] == "open")
    assert token["role"] == "site"
