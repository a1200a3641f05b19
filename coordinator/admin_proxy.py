"""A TCP connection as gRPC would make it: through an HTTP CONNECT proxy where the environment names one.

Reads what gRPC reads: `grpc_proxy`, `https_proxy`, `http_proxy`, and `no_grpc_proxy`, `no_proxy`.
"""

from __future__ import annotations

import os
import socket
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

_MOST_ANSWER_BYTES = 8192


def dial(host: str, port: int, timeout_s: float, environment: Mapping[str, str] = os.environ) -> socket.socket:
    """Connect to a host, through the proxy that is set for it.

    Raises:
        OSError: If host or proxy cannot be reached, or the proxy refuses.
    """
    proxy = _proxy_for(host, environment)
    if proxy is None:
        return socket.create_connection((host, port), timeout_s)
    parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    if parts.hostname is None:
        raise OSError(f"the proxy {parts.path!r} is not an address")
    connection = socket.create_connection((parts.hostname, parts.port or 80), timeout_s)
    try:
        _ask(connection, host, port, parts.username, parts.password)
    except OSError:
        connection.close()
        raise
    return connection


def _proxy_for(host: str, environment: Mapping[str, str]) -> str | None:
    names = ("grpc_proxy", "https_proxy", "http_proxy")
    proxy = next((environment[name] for name in names if environment.get(name)), None)
    exempt = environment.get("no_grpc_proxy") or environment.get("no_proxy") or ""
    suffixes = [name.strip() for name in exempt.split(",") if name.strip()]
    return None if any(host.endswith(suffix) for suffix in suffixes) else proxy


def _ask(connection: socket.socket, host: str, port: int, user: str | None, password: str | None) -> None:
    """Ask a proxy for a tunnel, and read its answer and not a byte more."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if user is not None:
        word = b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {word}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte or len(answer) > _MOST_ANSWER_BYTES:
            raise OSError("the proxy ended the connection")
        answer += byte
    words = answer.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    if len(words) < 2 or words[1] != "200":  # noqa: PLR2004  OK
        raise OSError(f"the proxy refused: {' '.join(words[1:])}")
