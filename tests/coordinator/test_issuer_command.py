"""`fedmepd-coordinator issuer`, `fedmepd-admin consortium certify`: the issuing certificate renewed, near and far."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from coordinator.cli.admin.app import app as admin
from coordinator.cli.main import app as coordinator
from coordinator.errors import ConfigError
from security.folders import ConsortiumFolder, IdentityFolder, IssuerFolder
from security.pki.certificates import join_bundle

PASSPHRASE = "correct horse battery"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDMEPD_CONSORTIUM_PASSPHRASE", PASSPHRASE)
    monkeypatch.delenv("FEDMEPD_KEY_PASSPHRASE", raising=False)
    ok(admin, "consortium", "init", str(tmp_path / "authority"), "--name", "brain.example.org")
    names = ["--consortium-dir", str(tmp_path / "authority"), "--name", "localhost"]
    ok(coordinator, "init", "--data", str(tmp_path / "data"), *names)
    return tmp_path


def ok(app: typer.Typer, *words: str) -> str:
    found = CliRunner().invoke(app, list(words))
    assert found.exit_code == 0, found.output
    return found.stdout


def age(home: Path, days: float) -> None:
    """Put an issuing certificate in place that will expire so many days from now."""
    trust = IdentityFolder(home / "data" / "identity").read_trust()
    opened = ConsortiumFolder(home / "authority").open(PASSPHRASE.encode())
    now = datetime.now(UTC)
    issuer = IssuerFolder(home / "data" / "issuer")
    request = (issuer.path / "issuer.csr").read_bytes()
    made = opened.certify_issuer(request, now=now, lifetime=timedelta(days=days))
    issuer.install(join_bundle([made]), trust=trust, now=now)


def expires(home: Path) -> datetime:
    return datetime.fromisoformat(
        json.loads(ok(coordinator, "issuer", "show", "--data", str(home / "data"), "--json"))["expires"]
    )


def test_the_root_renews_the_issuers_certificate_and_the_key_stays(home: Path) -> None:
    age(home, 3)
    key = IssuerFolder(home / "data" / "issuer").load(None).certificate.public_key()
    assert expires(home) < datetime.now(UTC) + timedelta(days=4)
    ok(coordinator, "issuer", "renew", "--data", str(home / "data"), "--consortium-dir", str(home / "authority"))
    assert expires(home) > datetime.now(UTC) + timedelta(days=700)
    assert IssuerFolder(home / "data" / "issuer").load(None).certificate.public_key() == key


def test_a_certificate_travels_between_authority_and_coordinator_as_a_file(home: Path) -> None:
    age(home, 3)
    request, made = str(home / "data" / "issuer" / "issuer.csr"), str(home / "issuer.pem")
    ok(admin, "consortium", "certify", request, "--consortium-dir", str(home / "authority"), "--out", made)
    ok(coordinator, "issuer", "install", made, "--data", str(home / "data"))
    assert expires(home) > datetime.now(UTC) + timedelta(days=700)


def test_a_request_that_is_missing_is_told_before_the_passphrase_is_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDMEPD_CONSORTIUM_PASSPHRASE")
    (home / "data" / "issuer" / "issuer.csr").unlink()
    words = ["issuer", "renew", "--data", str(home / "data"), "--consortium-dir", str(home / "authority")]
    found = CliRunner().invoke(coordinator, words)
    assert isinstance(found.exception, ConfigError)
    assert found.exception.problem.endswith("issuer.csr is missing")
    assert found.exception.remedy


def test_another_roots_certificate_is_refused_and_the_one_in_force_stays(home: Path) -> None:
    before = expires(home)
    ok(admin, "consortium", "init", str(home / "other"), "--name", "brain.example.org")
    request, made = str(home / "data" / "issuer" / "issuer.csr"), str(home / "issuer.pem")
    ok(admin, "consortium", "certify", request, "--consortium-dir", str(home / "other"), "--out", made)
    found = CliRunner().invoke(coordinator, ["issuer", "install", made, "--data", str(home / "data")])
    assert found.exit_code != 0
    assert "pinned root" in str(found.exception)
    assert expires(home) == before
