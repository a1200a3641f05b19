"""Folders: made once, whole or not at all; key and certificate always belong together."""

from __future__ import annotations

import os
import stat
from datetime import timedelta

import pytest

from security import files, keys
from security.errors import (
    CertificateError,
    ExpiredError,
    KeyFileError,
    NotYetValidError,
    UnknownAuthorityError,
)
from security.folders import ConsortiumFolder, IdentityFolder, IssuerFolder
from security.identity import Identity, Role
from security.pki.authority import issue
from security.pki.certificates import join_bundle
from security.pki.requests import make_request, verify_request
from security.pki.trust import Trust

PASSPHRASE = b"correct horse battery"
NAME = "brain.example"
COORDINATOR = Identity(consortium=NAME, role=Role.COORDINATOR, id="central")


@pytest.fixture
def consortium(tmp_path, now):
    return ConsortiumFolder(tmp_path / "consortium").init(NAME, passphrase=PASSPHRASE, now=now)


@pytest.fixture
def trust(pki):
    return Trust(root=pki.root.certificate, membership_key=keys.public_bytes(keys.make_signing_key()))


@pytest.fixture
def folder(tmp_path, site, trust, now):
    made = IdentityFolder(tmp_path / "agent")
    made.init(site, trust, passphrase=None, now=now)
    return made


def answer(pki, csr, now, identity=None):
    request = verify_request(csr)
    leaf = issue(pki.issuer, identity or request.requested, request.public_key, now=now)
    return join_bundle([leaf, pki.issuer.certificate])


def enrol(folder, pki, now):
    return folder.install_certificate(answer(pki, folder.request_certificate(passphrase=None), now), now=now)


def test_a_consortium_is_found_again(tmp_path, consortium):
    folder = ConsortiumFolder(tmp_path / "consortium")
    opened = folder.open(PASSPHRASE)
    assert opened.trust == consortium.trust == folder.read_trust()
    assert keys.public_bytes(opened.membership_key) == consortium.trust.membership_key
    assert {path.name for path in folder.path.iterdir()} == {
        "root.key",
        "root.pem",
        "membership.key",
        "membership.pub",
        "consortium.toml",
    }
    for name in ("root.key", "membership.key"):
        assert stat.S_IMODE((folder.path / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_a_second_init_never_mints_a_new_root(tmp_path, consortium, now):
    folder = ConsortiumFolder(tmp_path / "consortium")
    with pytest.raises(KeyFileError, match="lock every site out"):
        folder.init(NAME, passphrase=PASSPHRASE, now=now)
    assert folder.read_trust() == consortium.trust
    assert [path.name for path in tmp_path.iterdir()] == ["consortium"]


def test_an_init_that_fails_leaves_nothing(tmp_path, now, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(KeyFileError, match="No space left"):
        ConsortiumFolder(tmp_path / "consortium").init(NAME, passphrase=PASSPHRASE, now=now)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("consortium")
def test_a_short_or_wrong_passphrase_is_refused(tmp_path, now):
    with pytest.raises(KeyFileError, match="at least 12"):
        ConsortiumFolder(tmp_path / "other").init(NAME, passphrase=b"short", now=now)
    with pytest.raises(KeyFileError, match="passphrase is wrong"):
        ConsortiumFolder(tmp_path / "consortium").open(b"another passphrase")


@pytest.mark.usefixtures("consortium")
@pytest.mark.parametrize("name", ["root.pem", "membership.pub"])
def test_an_exchanged_public_file_is_noticed(tmp_path, now, name):
    ConsortiumFolder(tmp_path / "other").init(NAME, passphrase=PASSPHRASE, now=now)
    (tmp_path / "other" / name).replace(tmp_path / "consortium" / name)
    with pytest.raises(KeyFileError, match="inconsistent"):
        ConsortiumFolder(tmp_path / "consortium").open(PASSPHRASE)


@pytest.mark.usefixtures("consortium")
@pytest.mark.parametrize("name", ["root.key", "membership.key"])
def test_an_exchanged_key_is_noticed(tmp_path, now, name):
    ConsortiumFolder(tmp_path / "other").init(NAME, passphrase=PASSPHRASE, now=now)
    (tmp_path / "other" / name).replace(tmp_path / "consortium" / name)
    with pytest.raises(KeyFileError, match="is not the key of"):
        ConsortiumFolder(tmp_path / "consortium").open(PASSPHRASE)


@pytest.mark.usefixtures("consortium")
@pytest.mark.parametrize("damage", ["not toml", 'consortium = "x"\n', "consortium = 3\n"])
def test_a_damaged_description_is_refused(tmp_path, damage):
    (tmp_path / "consortium" / "consortium.toml").write_text(damage)
    with pytest.raises(KeyFileError, match="restore"):
        ConsortiumFolder(tmp_path / "consortium").read_trust()


def test_an_issuer_is_certified_without_its_key_leaving(tmp_path, consortium, now, day):
    folder = IssuerFolder(tmp_path / "issuer")
    request = folder.init(COORDINATOR, passphrase=None)
    assert folder.init(COORDINATOR, passphrase=None) == request
    pem = join_bundle([consortium.certify_issuer(request, now=now)])
    with pytest.raises(NotYetValidError):
        folder.install(pem, trust=consortium.trust, now=now - day)
    with pytest.raises(ExpiredError):
        folder.install(pem, trust=consortium.trust, now=now + 731 * day)
    folder.install(pem, trust=consortium.trust, now=now)
    assert folder.load(None).consortium == NAME


def test_an_issuer_refuses_certificates_that_are_not_its_own(tmp_path, consortium, pki, now, trust):
    folder = IssuerFolder(tmp_path / "issuer")
    request = folder.init(COORDINATOR, passphrase=None)
    other = make_request(COORDINATOR, keys.make_tls_key())
    with pytest.raises(CertificateError, match="another key"):
        folder.install(join_bundle([consortium.certify_issuer(other, now=now)]), trust=consortium.trust, now=now)
    with pytest.raises(UnknownAuthorityError):
        folder.install(join_bundle([consortium.certify_issuer(request, now=now)]), trust=trust, now=now)
    leaf = issue(consortium.root, COORDINATOR, verify_request(request).public_key, now=now)
    with pytest.raises(CertificateError, match="not an issuing authority"):
        folder.install(join_bundle([leaf]), trust=consortium.trust, now=now)
    with pytest.raises(KeyFileError, match=r"issuer\.pem is missing"):
        folder.load(None)
    (tmp_path / "issuer" / "issuer.pem").write_bytes(join_bundle([pki.issuer.certificate]))
    with pytest.raises(KeyFileError, match="not the key"):
        folder.load(None)


def test_a_party_enrols_and_loads_itself(folder, pki, trust, site, now):
    assert folder.exists
    assert not folder.has_certificate
    facts = enrol(folder, pki, now)
    assert folder.has_certificate
    loaded = folder.load(None)
    assert (loaded.identity, loaded.facts, loaded.trust) == (site, facts, trust)
    assert loaded.tls_key_pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    for hidden in ("tls_key", "identity_key=", "chain_pem"):
        assert hidden not in repr(loaded)


def test_a_sealed_folder_needs_its_passphrase(tmp_path, site, trust, pki, now):
    folder = IdentityFolder(tmp_path / "agent")
    folder.init(site, trust, passphrase=PASSPHRASE, now=now)
    csr = folder.request_certificate(passphrase=PASSPHRASE)
    folder.install_certificate(answer(pki, csr, now), now=now)
    assert folder.load(PASSPHRASE).identity == site
    with pytest.raises(KeyFileError, match="no passphrase"):
        folder.load(None)


def test_an_identity_is_made_once(folder, site, trust, now, tmp_path):
    with pytest.raises(KeyFileError, match="exists already"):
        folder.init(site, trust, passphrase=None, now=now)
    stranger = Identity(consortium="heart.example", role=Role.SITE, id="a")
    with pytest.raises(CertificateError, match="not of the consortium"):
        IdentityFolder(tmp_path / "other").init(stranger, trust, passphrase=None, now=now)


def test_an_open_request_is_repeated_byte_by_byte_until_it_is_discarded(folder):
    first = folder.request_certificate(passphrase=None)
    assert folder.request_certificate(passphrase=None) == first
    folder.discard_request()
    assert folder.request_certificate(passphrase=None) != first


def test_before_enrolment_there_is_nothing_to_load(folder):
    with pytest.raises(KeyFileError, match="enrol first"):
        folder.load(None)


def test_renewals_replace_key_and_certificate_together(folder, pki, now, day):
    enrol(folder, pki, now)
    before = folder.load(None)
    for count in range(1, 5):
        enrol(folder, pki, now + count * 60 * day)
    after = folder.load(None)
    assert after.facts.serial != before.facts.serial
    assert after.tls_key.public_key() != before.tls_key.public_key()
    generations = sorted(path.name for path in (folder.path / "tls").iterdir())
    assert generations == ["000004", "000005", "current"]


@pytest.mark.parametrize("step", ["replace", "replace_link"])
def test_a_crash_while_installing_keeps_the_old_pair_and_can_be_retried(folder, pki, now, monkeypatch, step):
    enrol(folder, pki, now)
    before = folder.load(None)
    chain = answer(pki, folder.request_certificate(passphrase=None), now)

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files, step, crash)
        with pytest.raises(KeyboardInterrupt):
            folder.install_certificate(chain, now=now)
    assert folder.load(None).facts == before.facts
    assert folder.install_certificate(chain, now=now) == folder.load(None).facts != before.facts


def test_an_answer_that_is_not_ours_is_refused(folder, pki, foreign, now, day):
    csr = folder.request_certificate(passphrase=None)
    other = make_request(folder.read_identity(), keys.make_tls_key())
    somebody = Identity(consortium=NAME, role=Role.SITE, id="b")
    for chain, error in [
        (answer(foreign, csr, now), UnknownAuthorityError),
        (answer(pki, other, now), CertificateError),
        (answer(pki, csr, now, somebody), CertificateError),
    ]:
        with pytest.raises(error):
            folder.install_certificate(chain, now=now)
    with pytest.raises(ExpiredError):
        folder.install_certificate(answer(pki, csr, now), now=now + 100 * day)
    assert not folder.has_certificate


def test_an_answer_without_a_request_is_refused(folder, pki, now):
    _, leaf = pki.leaf()
    with pytest.raises(KeyFileError, match="missing"):
        folder.install_certificate(join_bundle([leaf]), now=now)


@pytest.mark.parametrize("name", ["", "tls", "trust"])
def test_a_folder_that_others_can_change_is_refused(folder, pki, now, name):
    enrol(folder, pki, now)
    (folder.path / name).chmod(0o777)
    with pytest.raises(KeyFileError, match="chmod 700"):
        folder.load(None)


@pytest.mark.parametrize("name", ["identity.key", "tls/current/tls.key"])
def test_a_key_open_to_others_is_refused(folder, pki, now, name):
    enrol(folder, pki, now)
    (folder.path / name).chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        folder.load(None)


def test_exchanged_anchors_are_noticed(folder, pki, foreign, now):
    enrol(folder, pki, now)
    (folder.path / "trust" / "root.pem").write_bytes(join_bundle([foreign.root.certificate]))
    with pytest.raises(UnknownAuthorityError):
        folder.load(None)


def test_a_key_of_another_certificate_is_noticed(folder, pki, now):
    enrol(folder, pki, now)
    key = folder.path / "tls" / "current" / "tls.key"
    key.unlink()
    keys.write_private_key(key, keys.make_tls_key(), None)
    with pytest.raises(KeyFileError, match="do not belong together"):
        folder.load(None)


def test_expired_certificates_can_still_be_looked_at(folder, pki, now):
    facts = enrol(folder, pki, now)
    assert folder.load(None).facts.not_after == facts.not_after < now + timedelta(days=91)
