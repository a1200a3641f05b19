"""Looks at a port that a service serves, and at the files of its TLS: for the doctors of both services.

A port is tried by binding it for a moment, which disturbs nobody who listens there already; nothing is sent.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from protos.file_tls import EndpointTls
from protos.findings import Finding, fail, ok, skip, warn

_SOON = timedelta(days=14)


def examine_port(what: str, listen: str, *, ours: str | None, key: str) -> Finding:
    """Look whether a service could listen, or does.

    Args:
        what: Name of the finding.
        listen: host:port by the configuration; empty for nowhere.
        ours: Where our own running service says that it listens; None if it does not run.
        key: The key of the configuration, for the remedy.
    """
    if not listen:
        return skip(what, f"off: {key} is empty")
    host, _, port = listen.rpartition(":")
    if ours is not None and port in {"0", ours.rpartition(":")[2]}:
        return ok(what, f"{ours} is held by our own running service")
    try:
        _bind(host.strip("[]"), int(port))
    except OSError as error:
        return _taken(what, listen, error, key)
    except OverflowError:
        return fail(what, f"{listen} names no port", f"set {key} to host:port")
    if ours is not None:
        return warn(what, f"{listen} is free, and our running service listens at {ours}", "restart it: the key changed")
    return ok(what, f"{listen} is free")


def examine_tls(what: str, tls: EndpointTls | None, *, key: str) -> Iterator[Finding]:
    """Look at the files of an endpoint's TLS; nothing is said where there are none.

    Args:
        what: Name of the findings.
        tls: The files.
        key: The section of the configuration, for the remedy.
    """
    if tls is None:
        return
    for path in filter(None, (tls.certificate, tls.key, tls.client_ca)):
        try:
            path.read_bytes()
        except OSError as error:
            yield fail(what, f"{path} cannot be read ({error.strerror})", f"check [{key}] and the file's permissions")
            return
    try:
        tls.context()
        leaf = x509.load_pem_x509_certificates(tls.certificate.read_bytes())[0]
    except (OSError, ValueError) as error:
        yield fail(
            what, f"{tls.certificate} and {tls.key} are not a certificate and its key ({error})", f"check [{key}]"
        )
        return
    yield _times(what, tls.certificate, leaf)


def _times(what: str, path: Path, leaf: x509.Certificate) -> Finding:
    now, until = datetime.now(UTC), leaf.not_valid_after_utc
    if now >= until:
        return fail(what, f"{path} expired at {until:%Y-%m-%d %H:%M} UTC", "renew it where it was issued")
    if now < leaf.not_valid_before_utc:
        return fail(what, f"{path} is valid from {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC", "check the clock")
    if until - now < _SOON:
        return warn(what, f"{path} expires at {until:%Y-%m-%d %H:%M} UTC", "renew it where it was issued")
    return ok(what, f"{path} until {until:%Y-%m-%d}")


def _bind(host: str, port: int) -> None:
    family, kind, number, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, number) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind(address)


def _taken(what: str, listen: str, error: OSError, key: str) -> Finding:
    if error.errno == errno.EADDRINUSE:
        return fail(what, f"{listen} is taken by another program", f"end it, or set {key} (ss -ltnp names it)")
    if error.errno == errno.EACCES:
        return fail(what, f"{listen} may not be listened at by this user", f"set {key} to a port above 1023")
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return fail(what, f"{listen} is no address of this machine", f"set {key} to one of its own, or 0.0.0.0")
    return fail(what, f"{listen} cannot be listened at ({error.strerror or error})", f"check {key}")
