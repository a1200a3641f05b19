"""A real TLS 1.3 handshake, in memory, with what the package makes."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

import pytest

from security import keys
from security.identity import Role
from security.pki.certificates import join_bundle


@pytest.fixture(scope="module")
def living(build_pki):
    # OpenSSL compares with the machine's clock
    return build_pki(now=datetime.now(UTC))


@pytest.fixture(scope="module")
def stranger(build_pki):
    return build_pki(now=datetime.now(UTC))


def context(tmp_path, name, protocol, credentials, pki, root):
    key, leaf = credentials
    path = tmp_path / f"{name}.pem"
    path.write_bytes(keys.private_pem(key) + join_bundle([leaf, pki.issuer.certificate]))
    made = ssl.SSLContext(protocol)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_cert_chain(path)
    made.load_verify_locations(cadata=join_bundle([root]).decode())
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def shake_hands(server_context, client_context, host):
    """Let both ends talk until nothing is left to say; return them."""
    wires = [ssl.MemoryBIO() for _ in range(2)]
    server = server_context.wrap_bio(wires[0], wires[1], server_side=True)
    client = client_context.wrap_bio(wires[1], wires[0], server_hostname=host)
    for _ in range(4):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    client.write(b"hello")
    assert server.read() == b"hello"
    return server, client


def now():
    return datetime.now(UTC)


def credentials(pki, *, server):
    if not server:
        return pki.leaf(now=now())
    return pki.leaf(Role.COORDINATOR, "central", now=now(), dns_names=("localhost",))


@pytest.fixture
def server(tmp_path, living):
    return context(
        tmp_path, "server", ssl.PROTOCOL_TLS_SERVER, credentials(living, server=True), living, living.root.certificate
    )


def client_of(tmp_path, pki, root, *, server=False):
    return context(tmp_path, "client", ssl.PROTOCOL_TLS_CLIENT, credentials(pki, server=server), pki, root)


def test_both_ends_believe_each_other(tmp_path, living, server):
    at_server, at_client = shake_hands(server, client_of(tmp_path, living, living.root.certificate), "localhost")
    assert at_client.version() == "TLSv1.3"
    assert ("URI", "spiffe://brain.example/site/a") in at_server.getpeercert()["subjectAltName"]


def test_a_client_of_another_authority_is_refused(tmp_path, living, stranger, server):
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.verify.failed"):
        shake_hands(server, client_of(tmp_path, stranger, living.root.certificate), "localhost")


def test_a_server_of_another_authority_is_refused(tmp_path, living, stranger, server):
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, client_of(tmp_path, living, stranger.root.certificate), "localhost")


def test_a_server_of_another_name_is_refused(tmp_path, living, server):
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(server, client_of(tmp_path, living, living.root.certificate), "elsewhere.example")


def test_a_sites_certificate_does_not_serve(tmp_path, living):
    impostor = context(
        tmp_path, "server", ssl.PROTOCOL_TLS_SERVER, credentials(living, server=False), living, living.root.certificate
    )
    client = client_of(tmp_path, living, living.root.certificate)
    client.check_hostname = False
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        shake_hands(impostor, client, "localhost")
