"""An HTTP proxy on the way out: how it is asked for a tunnel, named in errors, and what to do when it refuses.

gRPC asks for its tunnels itself; what is here serves our own first look at a server, the same way, and turns what
either is told into words. A proxy's password is shown to the proxy alone. Source: RFC 9110, 9.3.6 and 11.7.1.
"""

from __future__ import annotations

import re
import socket
from base64 import b64encode
from urllib.parse import SplitResult, unquote, urlsplit

from site_agent.errors import UnreachableError

_MOST_REPLY = 8192
_PORT = 3128
_GRPC_WORDS = re.compile(r"proxy returned response code (\d{3})", re.IGNORECASE)
_WHO_ARE_YOU = "407"


def place(proxy: str) -> tuple[str, int]:
    """Return host and port of a proxy."""
    parts = _parts(proxy)
    return parts.hostname or "", parts.port or _PORT


def way(address: str, proxy: str | None) -> str:
    """Name an address together with the way to it."""
    return address if proxy is None else f"{address} through the proxy {shown(proxy)}"


def shown(proxy: str) -> str:
    """Return a proxy's URL without user and password."""
    host, port = place(proxy)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def tunnel(plain: socket.socket, target: str, proxy: str) -> None:
    """Ask a proxy for a tunnel, and read its answer and not a byte more.

    Raises:
        UnreachableError: If it refuses.
        OSError: If the connection breaks.
    """
    plain.sendall(
        "\r\n".join([f"CONNECT {target} HTTP/1.1", f"Host: {target}", *_authorization(proxy), "", ""]).encode()
    )
    reply = b""
    while b"\r\n\r\n" not in reply and len(reply) < _MOST_REPLY:
        part = plain.recv(1)
        if not part:
            break
        reply += part
    status = reply.split(b"\r\n", 1)[0].decode("latin-1")
    if " 200" not in status[:13]:
        answer = status[:100] or "no answer"
        raise UnreachableError(
            f"the proxy {shown(proxy)} does not connect to {target} ({answer})", remedy=remedy(answer)
        )


def remedy(answer: str) -> str:
    """Return what to do about a proxy's answer."""
    if _WHO_ARE_YOU in answer:
        return "put its user and password into proxy.url: http://user:password@host:port"
    return "ask the network's administrator to allow it, or name another proxy.url"


def refusal(grpc_details: str) -> str | None:
    """Return the status with which a proxy refused one of gRPC's connections, if that is what gRPC says."""
    found = _GRPC_WORDS.search(grpc_details)
    return None if found is None else found[1]


def _authorization(proxy: str) -> list[str]:
    parts = _parts(proxy)
    if parts.username is None:
        return []
    word = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return [f"Proxy-Authorization: Basic {b64encode(word.encode()).decode()}"]


def _parts(proxy: str) -> SplitResult:
    return urlsplit(proxy if "//" in proxy else f"//{proxy}")
