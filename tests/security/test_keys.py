"""Key files: private from the first byte, never overwritten, refused when anybody else could have read them."""

from __future__ import annotations

import errno
import os
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from security import files, keys, sealed
from security.errors import KeyFileError, SecurityError

PASSPHRASE = b"correct horse battery"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.key"


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE], ids=["plain", "sealed"])
@pytest.mark.parametrize("make", [keys.make_tls_key, keys.make_signing_key])
def test_a_key_survives_its_file(path, make, passphrase):
    key = make()
    keys.write_private_key(path, key, passphrase)
    assert keys.read_private_key(path, passphrase).public_key() == key.public_key()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_file_is_private_from_its_first_byte(path, monkeypatch):
    modes = []
    fsync = os.fsync

    def note(handle):
        modes.append(os.fstat(handle).st_mode)
        fsync(handle)

    opened = []
    real_open = os.open
    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "open", lambda *args, **kw: opened.append((args, real_open(*args, **kw))) or opened[-1][1])
    before = os.umask(0)
    try:
        keys.write_private_key(path, keys.make_tls_key(), None)
    finally:
        os.umask(before)
    (_, flags, mode), _ = opened[0]
    assert flags & os.O_EXCL
    assert mode == 0o600
    assert stat.S_IMODE(modes[0]) == 0o600
    assert stat.S_ISDIR(modes[-1])  # the folder's entry was flushed as well


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_without_hard_links_a_new_file_is_whole_and_overwrites_nothing(path, monkeypatch, code):
    def no_links(*_):
        raise OSError(code, "no")

    monkeypatch.setattr(os, "link", no_links)
    files.write_new(path, b"content", files.PRIVATE)
    with pytest.raises(KeyFileError, match="exists already"):
        files.write_new(path, b"another", files.PRIVATE)
    assert path.read_bytes() == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_without_hard_links_a_name_that_cannot_be_taken_is_free_again(path, monkeypatch):
    def no(*_):
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(os, "link", no)
    monkeypatch.setattr(files.Path, "replace", no)
    with pytest.raises(KeyFileError, match="cannot be used"):
        files.write_new(path, b"content", files.PRIVATE)
    assert list(path.parent.iterdir()) == []


def test_a_key_is_never_overwritten(path):
    key = keys.make_tls_key()
    keys.write_private_key(path, key, None)
    with pytest.raises(KeyFileError, match="exists already"):
        keys.write_private_key(path, keys.make_tls_key(), None)
    assert keys.read_tls_key(path, None).public_key() == key.public_key()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o666])
def test_a_file_open_to_others_is_refused_with_its_remedy(path, mode):
    keys.write_private_key(path, keys.make_tls_key(), None)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"chmod 600 {path}"):
        keys.read_private_key(path, None)


def test_a_file_of_another_user_is_refused(path, monkeypatch):
    keys.write_private_key(path, keys.make_tls_key(), None)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(KeyFileError, match="belongs to another user"):
        keys.read_private_key(path, None)


@pytest.mark.parametrize(
    ("written", "given", "problem"),
    [
        (PASSPHRASE, b"something else", "passphrase is wrong"),
        (PASSPHRASE, None, "no passphrase"),
    ],
)
def test_a_wrong_or_missing_passphrase_is_refused(path, written, given, problem):
    keys.write_private_key(path, keys.make_signing_key(), written)
    with pytest.raises(KeyFileError, match=problem) as refused:
        keys.read_private_key(path, given)
    assert str(path) in str(refused.value)


def test_a_short_passphrase_is_refused(path):
    with pytest.raises(KeyFileError, match="at least 12"):
        keys.write_private_key(path, keys.make_tls_key(), b"hunter2")
    assert not path.exists()


@pytest.mark.parametrize("contents", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_not_a_key_is_refused(path, contents):
    files.write_new(path, contents, files.PRIVATE)
    with pytest.raises(KeyFileError, match=r"some\.key"):
        keys.read_private_key(path, None)


def test_a_missing_or_huge_file_or_a_folder_is_refused(path):
    with pytest.raises(KeyFileError, match="is missing"):
        keys.read_private_key(path, None)
    files.write_new(path, bytes(20_000), files.PRIVATE)
    with pytest.raises(KeyFileError, match="larger"):
        keys.read_private_key(path, None)
    with pytest.raises(KeyFileError):
        keys.read_private_key(path.parent, None)


def pem(key, encryption=None):
    encryption = encryption or serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)])
def test_other_kinds_of_keys_are_refused(path, key):
    files.write_new(path, pem(key), files.PRIVATE)
    with pytest.raises(KeyFileError, match="neither a P-256 nor an Ed25519"):
        keys.read_private_key(path, None)


def test_a_key_of_the_other_kind_is_refused(tmp_path):
    keys.write_private_key(tmp_path / "tls", keys.make_tls_key(), None)
    keys.write_private_key(tmp_path / "identity", keys.make_signing_key(), None)
    with pytest.raises(KeyFileError, match="an Ed25519 key is needed"):
        keys.read_signing_key(tmp_path / "tls", None)
    with pytest.raises(KeyFileError, match="a P-256 key is needed"):
        keys.read_tls_key(tmp_path / "identity", None)


def test_keys_encrypted_by_other_tools_are_read(path):
    key = keys.make_tls_key()
    files.write_new(path, pem(key, serialization.BestAvailableEncryption(b"short")), files.PRIVATE)
    assert keys.read_private_key(path, b"short").public_key() == key.public_key()
    with pytest.raises(KeyFileError, match="passphrase is wrong"):
        keys.read_private_key(path, b"wrong")
    with pytest.raises(KeyFileError, match="no passphrase"):
        keys.read_private_key(path, None)


def test_every_changed_byte_of_a_sealed_key_is_noticed():
    whole = sealed.seal(b"secret", PASSPHRASE)
    assert sealed.unseal(whole, PASSPHRASE) == b"secret"
    lines = whole.splitlines()
    for place in range(0, len(lines[1]), 7):
        changed = bytearray(lines[1])
        changed[place] = ord("A") if changed[place] != ord("A") else ord("B")
        with pytest.raises(KeyFileError):
            sealed.unseal(b"\n".join([lines[0], bytes(changed), *lines[2:]]), PASSPHRASE)


@pytest.mark.parametrize("damage", [b"", b"junk", sealed.ARMOUR + b"\n!!!!\n-----END FEDMEPD SEALED KEY-----\n"])
def test_a_damaged_sealed_key_is_refused(damage):
    with pytest.raises(KeyFileError, match="damaged"):
        sealed.unseal(damage, PASSPHRASE)


def test_a_cost_that_would_take_all_memory_is_refused():
    body = b"/" + b"A" * 63
    with pytest.raises(KeyFileError, match="damaged"):
        sealed.unseal(b"\n".join([sealed.ARMOUR, body, b"-----END FEDMEPD SEALED KEY-----"]), PASSPHRASE)


def test_a_public_file_that_others_can_change_is_refused(path):
    files.write_new(path, b"root", files.PUBLIC)
    assert files.read_public(path, 10) == b"root"
    path.chmod(0o666)
    with pytest.raises(KeyFileError, match="changed by other users"):
        files.read_public(path, 10)


def test_a_signature_of_another_key_or_message_is_refused():
    key = keys.make_signing_key()
    refusal = SecurityError("no")
    keys.verify_signature(key.sign(b"m"), b"m", keys.public_bytes(key), refusal)
    for signature, message, public in [
        (key.sign(b"m"), b"n", keys.public_bytes(key)),
        (key.sign(b"m"), b"m", keys.public_bytes(keys.make_signing_key())),
        (b"", b"m", keys.public_bytes(key)),
        (key.sign(b"m"), b"m", b"short"),
    ]:
        with pytest.raises(SecurityError):
            keys.verify_signature(signature, message, public, refusal)
