"""Ports: free, or held by our own running coordinator, which is known by the certificate that it shows."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator, Mapping

from cryptography import x509

from coordinator.config import Config
from protos.endpoint_findings import examine_port, examine_tls
from protos.file_tls import EndpointTls
from protos.findings import Finding, fail, ok, skip, warn
from security.errors import CertificateError
from security.folders import LoadedIdentity
from security.pki.certificates import facts_of

_PATIENCE_S = 3.0
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  compared with, not listened at


def addresses(config: Config) -> dict[str, str]:
    """Return where the service last said that it listens."""
    try:
        found = json.loads((config.coordinator.data / "addresses.json").read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): str(place) for name, place in found.items() if place} if isinstance(found, dict) else {}


def is_running(config: Config, loaded: LoadedIdentity | None) -> bool:
    """Whether our own coordinator answers at its port."""
    place = addresses(config).get("members", config.coordinator.listen)
    return loaded is not None and _shown(place) == loaded.identity.uri


def examine_ports(config: Config, *, running: bool) -> Iterator[Finding]:
    """Look at all ports, and at the files of the metrics' TLS."""
    said: Mapping[str, str] = addresses(config) if running else {}
    service, metrics = config.coordinator, config.metrics
    yield ok("service", f"runs at {said.get('members')}") if running else skip("service", "does not run")
    for what, name, listen, key in (
        ("port for members", "members", service.listen, "coordinator.listen"),
        ("port for newcomers", "newcomers", service.enrolment, "coordinator.enrolment"),
        ("metrics", "metrics", metrics.listen, "metrics.listen"),
        ("status page", "status_page", config.status_page.listen, "status_page.listen"),
    ):
        yield examine_port(what, listen, ours=said.get(name), key=key)
    yield from _metrics_tls(config)
    if _is_public(config.metrics.listen) and metrics.certificate is None:
        yield warn(
            "metrics", f"{metrics.listen} tells other machines in clear", "set [metrics] certificate, key and client_ca"
        )


def _metrics_tls(config: Config) -> Iterator[Finding]:
    what, metrics = "metrics TLS", config.metrics
    if not metrics.listen or (metrics.certificate is None and metrics.key is None):
        return
    if metrics.certificate is None or metrics.key is None:
        yield fail(what, "certificate or key is missing", "set metrics.certificate and metrics.key, or neither")
        return
    tls = EndpointTls(certificate=metrics.certificate, key=metrics.key, client_ca=metrics.client_ca)
    yield from examine_tls(what, tls, key="metrics")


def _is_public(listen: str) -> bool:
    return listen.rpartition(":")[0].strip("[]") in {"0.0.0.0", "::"}  # noqa: S104  compared with


def _shown(place: str) -> str | None:
    """Return whose certificate is shown at a place; None if none of a consortium's is."""
    host, _, port = place.rpartition(":")
    host = _ANYWHERE.get(host.strip("[]"), host.strip("[]"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # looked at, not trusted
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, int(port)), _PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            leaf = secure.getpeercert(binary_form=True)
        return None if leaf is None else facts_of(x509.load_der_x509_certificate(leaf)).identity.uri
    except (OSError, ValueError, CertificateError):
        return None
