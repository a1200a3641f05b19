"""The newcomer's first look goes through the proxy that the environment names, as gRPC's connections do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from coordinator.admin_proxy import dial


@contextmanager
def proxy(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Run a proxy that reads one request, gives an answer and then says what a server might say first."""
    listener, requests = socket.create_server(("127.0.0.1", 0)), []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += connection.recv(4096)
            requests.append(request)
            connection.sendall(answer + b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}", requests
    thread.join(5)
    listener.close()


def test_a_tunnel_is_asked_for_with_the_proxys_credentials() -> None:
    with proxy(b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\n") as (address, requests):
        environment = {"https_proxy": f"http://bob:s%20t@{address}"}
        with dial("fed.example.org", 8444, 5, environment) as connection:
            assert connection.recv(5) == b"hello"
    assert requests[0].startswith(b"CONNECT fed.example.org:8444 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic Ym9iOnMgdA==\r\n" in requests[0]


@pytest.mark.parametrize(
    ("answer", "match"), [(b"HTTP/1.1 407 Who are you\r\n\r\n", "407 Who are you"), (b"HTTP/1.1 x\r\n\r\n", "refused")]
)
def test_a_proxy_that_refuses_is_quoted(answer: bytes, match: str) -> None:
    with proxy(answer) as (address, _), pytest.raises(OSError, match=match):
        dial("fed.example.org", 8444, 5, {"grpc_proxy": address})


def test_exempt_hosts_are_reached_directly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        environment = {"http_proxy": "http://127.0.0.1:1", "no_proxy": "localhost,127.0.0.1"}
        with dial("127.0.0.1", port, 5, environment) as line:
            assert line.getpeername() == ("127.0.0.1", port)


def test_a_proxy_without_a_name_is_an_error() -> None:
    with pytest.raises(OSError, match="not an address"):
        dial("fed.example.org", 8444, 5, {"http_proxy": "http://"})
