"""`fedmepd-coordinator init`, and how admins and operators enrol and renew, against a served coordinator, over TLS."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from unittest.mock import patch

import pytest

from coordinator.cli.admin.connection import connected
from coordinator.config import load_config
from protos.terms import PROTOCOL
from protos.v1 import common_pb2 as common
from security.folders import IdentityFolder
from security.identity import Role
from tests.coordinator.admin_at_hand import listed
from tests.coordinator.served import CONSORTIUM, Served, coordinator, served


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture
def fed(_shared: Served) -> Served:
    _shared.runs.scene = None
    return _shared


def test_init_copies_no_private_key_of_the_consortium_and_is_idempotent(fed: Served) -> None:
    data = fed.folder / "data"
    before = {
        path: path.read_bytes() for path in data.rglob("*") if path.is_file() and "coordinator.db" not in path.name
    }
    words = ("--data", data, "--consortium-dir", fed.folder / "consortium", "--name", "localhost,127.0.0.1")
    again = coordinator("init", *words)
    assert again.code == 0
    assert "certificate    kept" in again.out
    assert {path: path.read_bytes() for path in before} == before
    secrets = {(fed.folder / "consortium" / name).read_bytes() for name in ("root.key", "membership.key")}
    assert not secrets & set(before.values())
    config = load_config(data / "coordinator.toml", {})
    assert config.database_url == f"sqlite:///{data / 'coordinator.db'}"
    assert config.lead.cohort == data / "cohort"
    assert tomllib.loads((data / "coordinator.toml").read_text())["coordinator"]["listen"] == "0.0.0.0:8443"


def test_init_refuses_another_identity_in_the_same_folder(fed: Served) -> None:
    words = ("--data", fed.folder / "data", "--consortium-dir", fed.folder / "consortium", "--name", "localhost")
    said = coordinator("init", *words, "--id", "other")
    assert (said.code, said.out) == (2, "")
    assert "belongs to spiffe://brain.example/coordinator/coordinator" in said.err


def test_a_consortium_is_not_made_twice(fed: Served) -> None:
    said = fed.admin("consortium", "init", fed.folder / "consortium", "--name", CONSORTIUM)
    assert said.code == 2
    assert "a new root would lock every site out" in said.err
    assert (
        json.loads(fed.admin("consortium", "show", fed.folder / "consortium", "--json").out)["consortium"] == CONSORTIUM
    )


def test_an_operator_enrols_with_a_token_made_by_an_admin(fed: Served) -> None:
    made = fed.admin("tokens", "create", "bob", "--role", "operator")
    assert made.code == 0, made.err
    said = fed.enrol(made.out, "bob", "operator")
    assert said.code == 0, said.err
    assert "enrolled as spiffe://brain.example/operator/bob" in said.out
    assert fed.admin("runs", "list", who="bob").code == 0
    refused = fed.admin("tokens", "create", "eve", who="bob")
    assert refused.code == 2
    assert "may not call CreateToken" in refused.err
    again = fed.enrol(made.out, "bob", "operator")
    assert (again.code, "holds an identity already" in again.err) == (2, True)
    stolen = fed.enrol(made.out, "bob", "operator", who="thief")
    assert (stolen.code, "used already" in stolen.err) == (2, True)


def test_an_enrolment_waits_for_its_approval(fed: Served) -> None:
    made = fed.admin("tokens", "create", "carol", "--role", "auditor", "--approval", "--json")
    token = json.loads(made.out)["token"]

    def approve(_: float) -> None:
        assert fed.admin("members", "approve", "auditor", "carol").code == 0

    with patch("coordinator.cli.admin.ceremony.time.sleep", approve):
        said = fed.enrol(token, "carol", "auditor")
    assert said.code == 0, said.err
    assert "waiting for an admin's approval" in said.err
    assert fed.admin("members", "approve", "auditor", "carol").code == 2


def test_a_server_that_the_token_does_not_pin_is_refused_before_the_token_is_shown(fed: Served) -> None:
    token = fed.admin("tokens", "create", "dora", "--role", "auditor").out
    wrong = f"{token.strip()[:-4]}0000"
    said = fed.enrol(wrong, "dora", "auditor")
    assert said.code == 2
    assert "are not those of the token" in said.err
    assert not (fed.folder / "dora").exists()
    assert {t["state"] for t in listed(fed, "tokens", "list") if t["id"] == "dora"} == {"open"}


def test_guessing_tokens_is_made_slow(fed: Served) -> None:
    token = fed.admin("tokens", "create", "fay", "--role", "auditor").out.strip()
    head, id_, _, pin = token.split(".")
    try:
        for _ in range(5):
            said = fed.enrol(f"{head}.{id_}.{'a' * 32}.{pin}", "fay", "auditor")
            assert "not known" in said.err
        said = fed.enrol(token, "fay", "auditor")
        assert (said.code, "too many wrong tokens" in said.err) == (2, True)
    finally:
        fed.patience._wrong.clear()
    assert fed.enrol(token, "fay", "auditor").code == 0


def test_what_is_no_token_and_nobody_there_say_what_to_check(fed: Served) -> None:
    assert "copy all of it" in fed.enrol("nonsense", "x").err
    token = fed.admin("tokens", "create", "gus", "--role", "auditor").out
    said = fed.enrol(token, "gus", "auditor", newcomers="127.0.0.1:1")
    assert said.code == 2
    assert "cannot talk to the coordinator at 127.0.0.1:1" in said.err
    assert "firewall" in said.err
    assert len(said.err.strip().splitlines()) == 1
    nobody = fed.admin("runs", "list", who="nobody")
    assert (nobody.code, "does not say where the coordinator is" in nobody.err) == (2, True)


def test_a_due_renewal_happens_silently(fed: Served) -> None:
    assert fed.enrol(fed.admin("tokens", "create", "rex", "--role", "auditor").out, "rex", "auditor").code == 0
    folder = IdentityFolder(fed.folder / "rex")
    before = folder.load(None).facts
    later = before.renew_after + timedelta(days=1)

    class Late(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return later.astimezone(tz)

    with patch("coordinator.cli.admin.connection.datetime", Late):
        said = fed.admin("runs", "list", who="rex")
    assert (said.code, said.err) == (0, "")
    after = folder.load(None).facts
    assert after.serial != before.serial
    assert fed.registry.member(Role.AUDITOR, "rex").serial == after.serial
    later = after.not_after
    with patch("coordinator.cli.admin.connection.datetime", Late):
        said = fed.admin("runs", "list", who="rex")
    assert (said.code, "your certificate expired" in said.err) == (2, True)


def test_a_revoked_admin_is_cut_off(fed: Served) -> None:
    token = fed.admin("tokens", "create", "hal", "--role", "admin").out
    assert fed.enrol(token, "hal").code == 0
    with connected(fed.folder / "hal") as connection:
        hello = common.HelloRequest(oldest_protocol=PROTOCOL, newest_protocol=PROTOCOL, software="test")
        assert connection.stub.Hello(hello).consortium == CONSORTIUM
        said = fed.admin("members", "revoke", "admin", "hal", "--reason", "left", "--yes")
        assert said.code == 0, said.err
    refused = fed.admin("runs", "list", who="hal")
    assert (refused.code, "revoked" in refused.err) == (2, True)
    token = fed.admin("tokens", "create", "hal", "--role", "admin")
    assert fed.enrol(token.out, "hal", who="hal-again").code == 0
