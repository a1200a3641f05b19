"""The agent's side of TLS: version 1.3 alone, the consortium's root alone, through a proxy where there is one.

gRPC offers no choice of the TLS version. Our leaves have P-256 keys, so the one cipher suite that is offered to TLS
1.2, which needs an RSA leaf, can never be agreed on. The variable must be set before gRPC makes its first TLS context.

Whether there is a proxy is decided by the configuration (`Config.proxy_for`) and not once more by gRPC, which reads
other variables: it is told of the one that was chosen, to use none if none was, and to exempt no host.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence

import grpc

from protos.terms import MAX_MESSAGE_BYTES
from security.folders import LoadedIdentity
from site_agent import proxies
from site_agent.faults import unreachable

CONNECT_S = 15.0
_CIPHER_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
_NO_TLS_1_2 = "ECDHE-RSA-AES256-GCM-SHA384"
_EXEMPT_VARIABLE = "no_grpc_proxy"
Options = Sequence[tuple[str, int | str]]

os.environ.setdefault(_CIPHER_VARIABLE, _NO_TLS_1_2)
os.environ[_EXEMPT_VARIABLE] = ""


def options(proxy: str | None) -> Options:
    """Return the options of a channel (PROTOCOL 1.1, 1.2)."""
    chosen: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 150_000),
        ("grpc.keepalive_timeout_ms", 60_000),  # an answer may stand behind data of a slow link
        ("grpc.http2.ping_timeout_ms", 60_000),  # what gRPC 1.85 goes by; it ignores the line above
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.bdp_probe", 1),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 5000),  # the agent pauses by itself; gRPC need not add to it
        ("grpc.use_local_subchannel_pool", 1),  # a renewed certificate must not meet an old connection
    ]
    chosen.append(("grpc.enable_http_proxy", 0) if proxy is None else ("grpc.http_proxy", proxy))
    return tuple(chosen)


def member_credentials(loaded: LoadedIdentity) -> grpc.ChannelCredentials:
    """Return credentials that show our certificate and trust the consortium's root alone."""
    return grpc.ssl_channel_credentials(loaded.trust.root_pem, loaded.tls_key_pem, loaded.chain_pem)


def connect(address: str, proxy: str | None) -> socket.socket:
    """Open a TCP connection, through a proxy if there is one.

    Raises:
        UnreachableError: If that fails.
    """
    host, port = split_address(address)
    try:
        found = socket.create_connection((host, port) if proxy is None else proxies.place(proxy), CONNECT_S)
        try:
            if proxy is not None:
                proxies.tunnel(found, address, proxy)
        except BaseException:
            found.close()
            raise
    except OSError as error:
        raise unreachable(proxies.way(address, proxy), str(error)) from error
    return found


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port`."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def served_leaf(address: str, proxy: str | None) -> bytes:
    """Return the certificate that a server shows, DER, believed by nobody yet.

    Raises:
        UnreachableError: If there is no TLS 1.3 server.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the token's pin is checked instead
    context.set_alpn_protocols(["h2"])
    try:
        with (
            connect(address, proxy) as plain,
            context.wrap_socket(plain, server_hostname=split_address(address)[0]) as secure,
        ):
            leaf = secure.getpeercert(binary_form=True)
    except (OSError, ValueError) as error:
        raise unreachable(proxies.way(address, proxy), f"TLS handshake: {error}") from error
    if leaf is None:
        raise unreachable(proxies.way(address, proxy), "the server shows no certificate")
    return leaf
