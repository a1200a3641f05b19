"""The admin's end of the line: channels to the coordinator, and what to check when they fail.

A member's channel shows its certificate and trusts the consortium's root alone. A newcomer's channel trusts the one
certificate that was just seen; whoever uses it must compare what it is told with a token's pin.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

from coordinator.admin_proxy import dial
from coordinator.errors import CoordinatorError
from coordinator.tls import require_tls_1_3
from protos.terms import MAX_MESSAGE_BYTES
from security.folders import LoadedIdentity

TIMEOUT_S = 30.0
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 150_000),
    ("grpc.keepalive_timeout_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 60_000),
)
_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


class UnreachableError(CoordinatorError):
    """The coordinator does not answer."""


class RemoteError(CoordinatorError):
    """The coordinator refused, and says why."""

    def __str__(self) -> str:
        """Return what the coordinator said."""
        return self.problem


@contextmanager
def member_channel(address: str, loaded: LoadedIdentity) -> Iterator[grpc.Channel]:
    """Open a channel that shows a certificate; gRPC's errors in the block become ours."""
    require_tls_1_3()
    credentials = grpc.ssl_channel_credentials(loaded.trust.root_pem, loaded.tls_key_pem, loaded.chain_pem)
    with complaining(address), grpc.secure_channel(address, credentials, options=_OPTIONS) as channel:
        yield channel


@contextmanager
def newcomer_channel(address: str, anchor_pem: bytes) -> Iterator[grpc.Channel]:
    """Open a channel without a certificate that trusts one anchor: a root, or a leaf that was seen."""
    require_tls_1_3()
    credentials = grpc.ssl_channel_credentials(anchor_pem)
    with complaining(address), grpc.secure_channel(address, credentials, options=_OPTIONS) as channel:
        yield channel


def served_leaf(address: str) -> bytes:
    """Return the certificate that a server shows, in PEM form, believed by nobody yet.

    Raises:
        UnreachableError: If there is no TLS 1.3 server.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the token's pin is checked instead
    context.set_alpn_protocols(["h2"])
    try:
        with (
            dial(host, int(port), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            leaf = secure.getpeercert(binary_form=True)
    except (OSError, ValueError) as error:
        raise _unreachable(address, str(error)) from error
    if leaf is None:
        raise _unreachable(address, "no certificate")
    return ssl.DER_cert_to_PEM_cert(leaf).encode()


def ask(method: grpc.UnaryUnaryMultiCallable[_Request, _Reply], request: _Request) -> _Reply:
    """Call a method that answers at once."""
    return method(request, timeout=TIMEOUT_S)


@contextmanager
def complaining(address: str) -> Iterator[None]:
    """Turn gRPC's errors into ours.

    Raises:
        UnreachableError: If nobody answered.
        RemoteError: If the coordinator refused.
    """
    try:
        yield
    except grpc.RpcError as error:
        code, details = _parts(error)
        if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
            raise _unreachable(address, details) from error
        if code is grpc.StatusCode.UNAUTHENTICATED:
            raise RemoteError(f"the coordinator does not accept this identity: {details}") from error
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise RemoteError("the coordinator is older than this program and cannot do this: update it") from error
        raise RemoteError(details or f"the coordinator answered {code}") from error


def _parts(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    call: Any = error  # what gRPC raises from a call is both, which its stubs do not say
    return call.code(), str(call.details() or "").strip()


def _unreachable(address: str, details: str) -> UnreachableError:
    short = " ".join(details.split())[:300].rstrip(".")
    remedy = "check the address and port, the firewall, and that the coordinator is running there"
    if any(word in short.lower() for word in ("ssl", "tls", "certificate", "handshake", "socket closed")):
        remedy = (
            "check that the address is one of the names in the coordinator's certificate, this machine's clock, "
            "and that no middlebox opens TLS; an expired or revoked certificate needs a new enrolment"
        )
    return UnreachableError(f"cannot talk to the coordinator at {address} ({short})", remedy=remedy)
