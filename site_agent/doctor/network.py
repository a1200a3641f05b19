"""The way to the coordinator: name, port, proxy, whose certificate answers, whether ours is accepted, the clocks."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import datetime

import grpc
from cryptography import x509

from protos import codec
from protos.findings import Finding, fail, ok, skip, warn
from protos.v1.federation_pb2_grpc import FederationStub
from security.errors import CertificateError
from security.folders import LoadedIdentity
from security.identity import Role
from security.pki.certificates import facts_of
from site_agent.config import Config
from site_agent.errors import AgentError, IncompatibleError, RemoteError, UnauthenticatedError
from site_agent.faults import remote
from site_agent.link import SOFTWARE
from site_agent.proxies import shown
from site_agent.tls import CONNECT_S, connect, member_credentials, options, served_leaf, split_address

_CALL_S = 15.0
_SKEW_WARN_S, _SKEW_FAIL_S = 30.0, 300.0


def examine_network(config: Config, loaded: LoadedIdentity | None) -> Iterator[Finding]:
    """Look at the way to the coordinator, step by step; what a failed step hides is not looked at."""
    address = config.agent.coordinator
    proxy = config.proxy_for(address)
    if proxy is None:
        found = _name(address)
        yield found
        if found.verdict == "FAIL":
            return
    else:
        yield ok("proxy", f"through {shown(proxy)}")
    found = _port(address, proxy)
    yield found
    if found.verdict == "FAIL":
        return
    if loaded is None:
        yield from _before_enrolment(config)
        return
    found = _interception(address, proxy, loaded)
    yield found
    if found.verdict != "FAIL":
        yield from _coordinator(address, proxy, loaded)


def _name(address: str) -> Finding:
    host, port = split_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return fail("name", f"{host} cannot be resolved ({error.strerror or error})", "check agent.coordinator, or DNS")
    return ok("name", f"{host} is {', '.join(sorted({str(row[4][0]) for row in found}))}")


def _port(address: str, proxy: str | None) -> Finding:
    try:
        connect(address, proxy).close()
    except AgentError as error:
        return fail("port", error.problem, error.remedy or "")
    return ok("port", f"{address} is open")


def _before_enrolment(config: Config) -> Iterator[Finding]:
    address = config.enrolment_address
    try:
        leaf = x509.load_der_x509_certificate(served_leaf(address, config.proxy_for(address)))
    except (AgentError, ValueError) as error:
        problem = error.problem if isinstance(error, AgentError) else str(error)
        yield fail("enrolment", problem, "ask the operator whether enrolment is open, and at which port")
    else:
        yield _intercepted("enrolment", address, leaf) or ok("enrolment", f"{address} answers")
    yield skip("coordinator", "not enrolled yet: nothing to compare its certificate with")


def _interception(address: str, proxy: str | None, loaded: LoadedIdentity) -> Finding:
    """Look whose certificate answers; the server shows it before it asks for ours."""
    what = "TLS"
    try:
        leaf = x509.load_der_x509_certificate(served_leaf(address, proxy))
    except (AgentError, ValueError) as error:
        return fail(what, str(error), "the port is not a coordinator's, or a middlebox breaks TLS 1.3")
    if (found := _intercepted(what, address, leaf)) is not None:
        return found
    facts = facts_of(leaf)
    host = split_address(address)[0]
    if facts.identity.consortium != loaded.identity.consortium or facts.identity.role is not Role.COORDINATOR:
        return fail(what, f"{facts.identity} answers, not our coordinator", "check agent.coordinator")
    return _trusted(address, proxy, loaded, host) or ok(what, f"{facts.identity.uri} answers, certified for {host}")


def _intercepted(what: str, address: str, leaf: x509.Certificate) -> Finding | None:
    """Say that a certificate is no party's of a consortium, if it is not."""
    try:
        facts_of(leaf)
    except CertificateError:
        return fail(
            what,
            f"the certificate that answers was issued by {leaf.issuer.rfc4514_string()[:120]!r}, "
            "not by the consortium: a middlebox intercepts TLS",
            f"ask the network's administrator to exempt {address} from inspection",
        )
    return None


def _trusted(address: str, proxy: str | None, loaded: LoadedIdentity, host: str) -> Finding | None:
    """Let OpenSSL say why the chain or the name is wrong, if it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=loaded.trust.root_pem.decode())
    context.set_alpn_protocols(["h2"])
    try:
        with connect(address, proxy) as plain, context.wrap_socket(plain, server_hostname=host):
            return None
    except ssl.SSLCertVerificationError as error:
        remedy = "check the clock; if the name is wrong, use one that is in the coordinator's certificate"
        return fail("TLS", f"the coordinator's certificate is not acceptable: {error.verify_message}", remedy)
    except (OSError, AgentError) as error:
        return fail("TLS", f"the handshake fails: {error}", "a middlebox may break TLS 1.3")


def _coordinator(address: str, proxy: str | None, loaded: LoadedIdentity) -> Iterator[Finding]:
    request = codec.encode_hello(codec.Hello(software=SOFTWARE))
    credentials = member_credentials(loaded)
    began = time.time()
    try:
        with remote(address, proxy), grpc.secure_channel(address, credentials, options=options(proxy)) as channel:
            welcome = codec.decode_welcome(FederationStub(channel).Hello(request, timeout=_CALL_S))
    except UnauthenticatedError as error:
        yield fail("coordinator", error.problem, "if the certificate was revoked, ask the operator and enrol again")
        return
    except IncompatibleError as error:
        yield fail("coordinator", error.problem, error.remedy or "install the release that it names")
        return
    except RemoteError as error:
        yield fail("coordinator", error.problem, _why_refused(address, proxy, loaded) or error.remedy or "")
        return
    yield ok("coordinator", f"{welcome.software} of {welcome.consortium}")
    yield _version(welcome.software)
    yield _clock(welcome.clock, (began + time.time()) / 2)


def _version(theirs: str) -> Finding:
    """Compare releases: the protocol was agreed on, so another one works, and is worth knowing of."""
    own, other = SOFTWARE.rpartition(" ")[2], theirs.rpartition(" ")[2]
    if own == other:
        return ok("version", f"{own}, as the coordinator's")
    return warn(
        "version", f"{own}, and the coordinator's is {other}", f"plan an update to {max(own, other, key=_parts)}"
    )


def _parts(version: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in version.split(".")]


def _why_refused(address: str, proxy: str | None, loaded: LoadedIdentity) -> str:
    """Ask OpenSSL, which passes the server's alert on where gRPC does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=loaded.trust.root_pem.decode())
    with os.fdopen(os.memfd_create("identity", os.MFD_CLOEXEC), "wb") as both:  # OpenSSL wants a file; no disk sees it
        both.write(loaded.tls_key_pem + loaded.chain_pem)
        both.flush()
        context.load_cert_chain(f"/proc/self/fd/{both.fileno()}")
    try:
        with (
            connect(address, proxy) as plain,
            context.wrap_socket(plain, server_hostname=split_address(address)[0]) as secure,
        ):
            secure.settimeout(CONNECT_S)
            secure.recv(1)  # TLS 1.3: the verdict on our certificate comes after the handshake
    except (OSError, AgentError) as error:
        return f"the coordinator's side says: {error}; an expired or revoked certificate needs a new enrolment"
    return ""


def _clock(theirs: float, ours: float) -> Finding:
    skew = ours - theirs
    text = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the coordinator's"
    if abs(skew) < _SKEW_WARN_S:
        return ok("clock", "agrees with the coordinator's")
    remedy = "let a time service (NTP) set it"
    return warn("clock", text, remedy) if abs(skew) < _SKEW_FAIL_S else fail("clock", text, remedy)


def certificate(loaded: LoadedIdentity, now: datetime) -> Finding:
    """Look at our own certificate."""
    facts = loaded.facts
    until = f"{facts.not_after:%Y-%m-%d %H:%M} UTC"
    if now < facts.not_before:
        return fail("certificate", f"is valid from {facts.not_before:%Y-%m-%d %H:%M} UTC", "check this machine's clock")
    if now >= facts.not_after:
        return fail("certificate", f"expired at {until}", "ask the operator for a new token and enrol again")
    if now >= facts.renew_after:
        return warn("certificate", f"until {until}; its renewal is due", "start the agent: it renews by itself")
    return ok("certificate", f"{facts.identity.uri} until {until}")
