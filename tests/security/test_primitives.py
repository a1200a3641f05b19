"""The primitives of secure aggregation give their published answers, in the library and as spelled out by us."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from tests.security import slow_terms

VECTORS = json.loads((Path(__file__).parent / "vectors" / "primitives.json").read_text())


def cases(primitive):
    return [{k: unhex(v) if k != "name" else v for k, v in case.items()} for case in VECTORS[primitive]["cases"]]


def unhex(value):
    return bytes.fromhex(value) if isinstance(value, str) else value


@pytest.mark.parametrize("case", cases("x25519"))
def test_x25519_multiplies_as_published(case):
    private = X25519PrivateKey.from_private_bytes(case["scalar"])
    assert private.exchange(X25519PublicKey.from_public_bytes(case["u"])) == case["out"]


def test_x25519_multiplied_again_and_again_ends_as_published():
    iterated = VECTORS["x25519"]["iterated"]
    scalar = u = bytes.fromhex(iterated["start"])
    found = {}
    for turn in range(1, 1001):
        private = X25519PrivateKey.from_private_bytes(scalar)
        scalar, u = private.exchange(X25519PublicKey.from_public_bytes(u)), scalar
        found[str(turn)] = scalar.hex()
    assert {turn: found[turn] for turn in iterated["after"]} == iterated["after"]


@pytest.mark.parametrize("case", cases("diffie_hellman"))
def test_both_ends_agree_on_the_published_secret(case):
    one = X25519PrivateKey.from_private_bytes(case["private_1"])
    two = X25519PrivateKey.from_private_bytes(case["private_2"])
    assert one.public_key().public_bytes_raw() == case["public_1"]
    assert two.public_key().public_bytes_raw() == case["public_2"]
    assert one.exchange(two.public_key()) == two.exchange(one.public_key()) == case["shared"]


@pytest.mark.parametrize("case", cases("diffie_hellman"))
def test_a_private_key_comes_back_as_it_was_given(case):
    """Shared and recovered are the 32 bytes that were drawn, not those that RFC 7748 multiplies by (SPEC 12.1)."""
    assert X25519PrivateKey.from_private_bytes(case["private_1"]).private_bytes_raw() == case["private_1"]


@pytest.mark.parametrize("u", [bytes(32), b"\x01" + bytes(31)])
def test_x25519_refuses_points_of_low_order(u):
    private = X25519PrivateKey.from_private_bytes(cases("x25519")[0]["scalar"])
    with pytest.raises(ValueError, match="Error computing shared key"):
        private.exchange(X25519PublicKey.from_public_bytes(u))


@pytest.mark.parametrize("case", cases("hkdf_sha256"))
def test_hkdf_derives_as_published(case):
    derived = HKDF(algorithm=SHA256(), length=case["length"], salt=case["salt"], info=case["info"]).derive(case["ikm"])
    expanded = HKDFExpand(algorithm=SHA256(), length=case["length"], info=case["info"]).derive(case["prk"])
    assert derived == expanded == case["okm"]


@pytest.mark.parametrize("case", cases("hkdf_sha256"))
def test_hkdf_spelled_out_derives_as_published(case):
    assert slow_terms.hkdf(case["ikm"], case["salt"], case["info"], case["length"]) == case["okm"]


@pytest.mark.parametrize("case", cases("chacha20_poly1305"))
def test_the_aead_seals_and_opens_as_published(case):
    aead, sealed = ChaCha20Poly1305(case["key"]), case["ciphertext"] + case["tag"]
    assert aead.encrypt(case["nonce"], case["plaintext"], case["associated"]) == sealed
    assert aead.decrypt(case["nonce"], sealed, case["associated"]) == case["plaintext"]


@pytest.mark.parametrize("case", cases("chacha20_poly1305"))
@pytest.mark.parametrize("part", ["ciphertext", "tag", "associated"])
def test_the_aead_opens_nothing_that_was_changed(case, part):
    case = case | {part: bytes([case[part][0] ^ 1]) + case[part][1:]}
    with pytest.raises(InvalidTag):
        ChaCha20Poly1305(case["key"]).decrypt(case["nonce"], case["ciphertext"] + case["tag"], case["associated"])


@pytest.mark.parametrize("case", cases("ed25519"), ids=lambda case: case["name"])
def test_ed25519_signs_and_verifies_as_published(case):
    private = Ed25519PrivateKey.from_private_bytes(case["private"])
    assert private.public_key().public_bytes_raw() == case["public"]
    assert private.sign(case["message"]) == case["signature"]
    Ed25519PublicKey.from_public_bytes(case["public"]).verify(case["signature"], case["message"])


@pytest.mark.parametrize("case", cases("ed25519"), ids=lambda case: case["name"])
def test_ed25519_verifies_no_other_message(case):
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(case["public"]).verify(case["signature"], case["message"] + b"\x00")


@pytest.mark.parametrize("case", cases("aes256_ctr"))
def test_aes_in_counter_mode_encrypts_as_published(case):
    encryptor = Cipher(AES256(case["key"]), CTR(case["counter"])).encryptor()
    assert encryptor.update(case["plaintext"]) + encryptor.finalize() == case["ciphertext"]


@pytest.mark.parametrize("case", cases("aes256_ctr"))
def test_counter_mode_spelled_out_has_the_published_key_stream(case):
    stream = slow_terms.aes_ctr(case["key"], int.from_bytes(case["counter"], "big"), len(case["plaintext"]))
    assert bytes(a ^ b for a, b in zip(stream, case["plaintext"], strict=True)) == case["ciphertext"]
