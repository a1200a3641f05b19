"""The endpoint answers its few readers, refuses others quietly, and is held up by nobody."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client import CollectorRegistry, Gauge

from protos import exposition as module
from protos.exposition import Check, Exposition
from protos.file_tls import EndpointTls

GOOD = (Check(name="disk", ok=True, text="room enough"), Check(name="loop", ok=True))
BAD = (Check(name="disk", ok=False, text="full"), Check(name="loop", ok=True))


def exposition(
    listen: str = "127.0.0.1:0", *, checks: Sequence[Check] = GOOD, alive: bool = True, tls: EndpointTls | None = None
) -> Exposition:
    registry = CollectorRegistry()
    Gauge("things", "How many things", registry=registry).set(3)
    return Exposition(listen, registry, alive=lambda: alive, checks=lambda: checks, tls=tls)


def ask(address: str, path: str, *, method: str = "GET", context: ssl.SSLContext | None = None, accept: str = ""):
    """Return status, content type and text."""
    scheme = "http" if context is None else "https"
    request = urllib.request.Request(f"{scheme}://{address}{path}", method=method, headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


class Authority:
    """Signs certificates of readers and endpoints."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.pem"
        constraint = x509.BasicConstraints(ca=True, path_length=0)
        made = self._builder(self._name, self._key).add_extension(constraint, critical=True)
        usage = x509.KeyUsage(*(position in (5, 6) for position in range(9)))
        self._write(self.file, made.add_extension(usage, critical=True))

    def leaf(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
        certificate, private = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        self._write(certificate, self._builder(subject, key).add_extension(names, critical=False))
        form = serialization.PrivateFormat.PKCS8
        private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return certificate, private

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(identifier, critical=False)
            .add_extension(issuer, critical=False)
        )

    def _write(self, path: Path, made: x509.CertificateBuilder) -> None:
        path.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def trusting(authority: Authority, reader: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.file))
    if reader is not None:
        context.load_cert_chain(*reader)
    return context


def test_metrics_are_told_as_the_reader_wants_them() -> None:
    with exposition() as endpoint:
        status, kind, text = ask(endpoint.address, "/metrics")
        assert (status, kind.partition(";")[0]) == (200, "text/plain")
        assert "things 3.0\n" in text
        openly = ask(endpoint.address, "/metrics?x=1", accept="application/openmetrics-text; version=1.0.0")
        assert openly[1].startswith("application/openmetrics-text")
        assert openly[2].endswith("# EOF\n")


def test_readiness_says_which_check_does_not_hold() -> None:
    with exposition() as endpoint:
        assert ask(endpoint.address, "/readyz")[::2] == (200, "ok   disk: room enough\nok   loop\n")
    with exposition(checks=BAD) as endpoint:
        assert ask(endpoint.address, "/readyz")[::2] == (503, "FAIL disk: full\nok   loop\n")


def test_health_is_whether_the_loop_turns_and_nothing_else() -> None:
    with exposition(checks=BAD) as endpoint:
        assert ask(endpoint.address, "/healthz")[::2] == (200, "ok\n")
    with exposition(alive=False) as endpoint:
        assert ask(endpoint.address, "/healthz")[0] == 503


def test_a_head_has_no_body_and_other_places_and_methods_are_refused() -> None:
    with exposition() as endpoint:
        assert ask(endpoint.address, "/metrics", method="HEAD")[::2] == (200, "")
        assert ask(endpoint.address, "/")[0] == 404
        assert ask(endpoint.address, "/metrics/../secret")[0] == 404
        assert ask(endpoint.address, "/metrics", method="POST")[0] == 501


def test_a_taken_port_is_an_error() -> None:
    with exposition() as endpoint, pytest.raises(OSError, match="in use"):
        exposition(endpoint.address)


def test_tls_is_spoken_where_it_is_configured(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.leaf("endpoint")
    with exposition(tls=EndpointTls(certificate=certificate, key=key)) as endpoint:
        assert ask(endpoint.address, "/metrics", context=trusting(authority))[0] == 200
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(endpoint.address, "/metrics")


def test_readers_without_a_certificate_are_refused_where_one_is_asked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    authority, readers, others = (Authority(tmp_path, name) for name in ("authority", "readers", "others"))
    certificate, key = authority.leaf("endpoint")
    tls = EndpointTls(certificate=certificate, key=key, client_ca=readers.file)
    with exposition(tls=tls) as endpoint:
        for reader in (None, others.leaf("stranger")):
            with pytest.raises(OSError):  # noqa: PT011  which of them depends on who notices first
                ask(endpoint.address, "/metrics", context=trusting(authority, reader))
        assert ask(endpoint.address, "/metrics", context=trusting(authority, readers.leaf("reader")))[0] == 200
    assert capfd.readouterr().err == "", "who is refused leaves no trace of calls"


def test_a_certificate_without_its_key_is_an_error(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, _ = authority.leaf("one")
    _, key = authority.leaf("other")
    with pytest.raises(OSError, match="mismatch"):
        exposition(tls=EndpointTls(certificate=certificate, key=key))


def test_readers_that_hang_or_hang_up_hold_up_nobody(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.leaf("endpoint")
    tls = EndpointTls(certificate=certificate, key=key)
    for secured, context in ((None, None), (tls, trusting(authority))):
        with exposition(tls=secured) as endpoint:
            host, _, port = endpoint.address.rpartition(":")
            with socket.create_connection((host, int(port))) as silent:  # says nothing, not even a greeting
                silent.settimeout(10)
                assert ask(endpoint.address, "/metrics", context=context)[0] == 200
            for said in (b"", b"GET /metrics HTTP/1.1\r\n", b"no protocol that is known\r\n\r\n"):
                with socket.create_connection((host, int(port))) as hasty:
                    hasty.sendall(said)
                    hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, not closed
            assert ask(endpoint.address, "/metrics", context=context)[0] == 200
    assert capfd.readouterr().err == ""


def test_a_fault_of_ours_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    def broken() -> Sequence[Check]:
        raise ValueError("a fault")

    with (
        Exposition("127.0.0.1:0", CollectorRegistry(), alive=lambda: True, checks=broken) as endpoint,
        pytest.raises((OSError, http.client.HTTPException)),
    ):
        ask(endpoint.address, "/readyz")
    assert "a fault" in capfd.readouterr().err


def test_it_listens_at_an_address_of_ipv6() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    with exposition("[::1]:0") as endpoint:
        assert endpoint.address.startswith("[::1]:")
        assert ask(endpoint.address, "/healthz")[0] == 200


def test_a_check_is_one_line_whatever_its_text() -> None:
    forged = (Check(name="database", ok=False, text="no answer\nok   database\r\n\tat all"),)
    with exposition(checks=forged) as endpoint:
        assert ask(endpoint.address, "/readyz")[2] == "FAIL database: no answer ok database at all\n"


@pytest.mark.parametrize("secured", [False, True])
def test_a_connection_is_over_when_its_time_is_whatever_the_reader_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *, secured: bool
) -> None:
    made = module.Turnstile
    monkeypatch.setattr(module, "Turnstile", lambda most, longest_s: made(most, longest_s / 50))
    certificate, key = Authority(tmp_path, "authority").leaf("endpoint")
    tls = EndpointTls(certificate=certificate, key=key) if secured else None
    with exposition(tls=tls) as endpoint, socket.create_connection(endpoint.address.rsplit(":", 1)) as slow:
        slow.settimeout(5)  # less than a read may take at the other end
        slow.sendall(b"\x16\x03\x01" if secured else b"GET /metrics HTTP/1.1\r\nX-")
        assert slow.recv(1) == b""
    assert capfd.readouterr().err == ""


def test_one_reader_too_many_is_turned_away_and_let_in_when_others_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_CONNECTIONS", 2)
    with exposition() as endpoint:
        where = endpoint.address.rsplit(":", 1)
        with socket.create_connection(where) as one, socket.create_connection(where) as two:
            with socket.create_connection(where) as third:
                third.settimeout(5)
                assert third.recv(1) == b""
            one.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            two.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            while one.recv(1024):
                pass
            while two.recv(1024):
                pass
        for _ in range(4):  # nobody who has left counts
            assert _patiently(endpoint.address) == 200


def _patiently(address: str) -> int:
    """Return the status of an answer; a place is free a moment after its reader has heard everything."""
    for _ in range(1000):
        try:
            return ask(address, "/healthz")[0]
        except (OSError, http.client.HTTPException):
            continue
    raise AssertionError("nobody is let in any more")


def test_tls_older_than_1_3_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.leaf("endpoint")
    old = trusting(authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        exposition(tls=EndpointTls(certificate=certificate, key=key)) as endpoint,
        pytest.raises(OSError, match="TLS|SSL"),
    ):
        ask(endpoint.address, "/metrics", context=old)


def test_renewed_certificates_are_in_use_without_a_restart_once_they_fit(tmp_path: Path) -> None:
    authority, later = Authority(tmp_path, "authority"), Authority(tmp_path, "later")
    certificate, key = authority.leaf("endpoint")
    new_certificate, new_key = later.leaf("renewed")
    with exposition(tls=EndpointTls(certificate=certificate, key=key)) as endpoint:
        assert ask(endpoint.address, "/healthz", context=trusting(authority))[0] == 200
        new_certificate.replace(certificate)
        assert ask(endpoint.address, "/healthz", context=trusting(authority))[0] == 200, "the key is not there yet"
        new_key.replace(key)
        assert ask(endpoint.address, "/healthz", context=trusting(later))[0] == 200
        key.unlink()
        assert ask(endpoint.address, "/healthz", context=trusting(later))[0] == 200
