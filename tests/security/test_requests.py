"""Certificate requests: who sends one holds both keys; what it asks for is one identity."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from security import keys
from security.errors import CertificateError
from security.pki.requests import make_request, prove_identity, verify_proof, verify_request


def request_of(key, *names):
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def uri(text):
    return x509.UniformResourceIdentifier(text)


def test_a_request_says_what_it_asks_for(site):
    key = keys.make_tls_key()
    addresses = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
    request = verify_request(make_request(site, key, ("fl.brain.example",), addresses))
    assert request.requested == site
    assert request.requested_dns_names == ("fl.brain.example",)
    assert request.requested_ip_addresses == addresses
    assert request.public_key == key.public_key()


@pytest.mark.parametrize("name", ["*.brain.example", "Brain.example", "brain example", "", "a" * 300, "-a"])
def test_malformed_host_names_are_refused(site, name):
    with pytest.raises(CertificateError, match="not a host name"):
        make_request(site, keys.make_tls_key(), (name,))


@pytest.mark.parametrize(
    "pem", [b"", b"junk", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_malformed_requests_are_refused(pem):
    with pytest.raises(CertificateError, match="malformed"):
        verify_request(pem)


def test_a_huge_request_is_refused_before_it_is_read(site):
    with pytest.raises(CertificateError, match="larger than 16384"):
        verify_request(make_request(site, keys.make_tls_key()) + b"\n" * 16384)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)])
def test_only_p256_keys_are_accepted(site, key):
    with pytest.raises(CertificateError, match="not for a P-256 key"):
        verify_request(request_of(key, uri(site.uri)))


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "no subject alternative name"),
        ([x509.DNSName("localhost")], "names 0 identities"),
        ([uri("spiffe://brain.example/site/a"), uri("spiffe://brain.example/site/b")], "names 2 identities"),
        ([uri("https://brain.example/site/a")], "nobody of a consortium"),
    ],
)
def test_a_request_must_ask_for_exactly_one_identity(names, problem):
    with pytest.raises(CertificateError, match=problem):
        verify_request(request_of(keys.make_tls_key(), *names))


def test_a_request_signed_with_another_key_is_refused(site):
    der = bytearray(
        x509.load_pem_x509_csr(make_request(site, keys.make_tls_key())).public_bytes(serialization.Encoding.DER)
    )
    place = der.index(b"/site/a") + 6
    der[place] = ord("b")
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(CertificateError, match="not signed with the key"):
        verify_request(forged)


def test_the_holder_of_the_identity_key_can_prove_it(site):
    key, csr = keys.make_signing_key(), make_request(site, keys.make_tls_key())
    proof = prove_identity(key, csr, "0011223344556677")
    verify_proof(proof, identity_key=keys.public_bytes(key), csr_pem=csr, token_id="0011223344556677")


@pytest.mark.parametrize("what", ["key", "csr", "token", "proof"])
def test_a_proof_is_good_for_one_key_request_and_token_only(site, what):
    key, csr = keys.make_signing_key(), make_request(site, keys.make_tls_key())
    proof = prove_identity(key, csr, "0011223344556677")
    given = {"identity_key": keys.public_bytes(key), "csr_pem": csr, "token_id": "0011223344556677"}
    other = {
        "key": {"identity_key": keys.public_bytes(keys.make_signing_key())},
        "csr": {"csr_pem": make_request(site, keys.make_tls_key())},
        "token": {"token_id": "ffeeddccbbaa9988"},
        "proof": {},
    }[what]
    with pytest.raises(CertificateError, match="proof of the identity key"):
        verify_proof(bytes(64) if what == "proof" else proof, **(given | other))
