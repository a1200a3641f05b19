"""What the status page answers and what it refuses: requests of any kind, connections that last, its own TLS."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterable, Iterator, MutableMapping
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from coordinator.errors import ConfigError
from coordinator.status_page import Contexts, StatusPage
from coordinator.status_page.addresses import place_of
from security.folders import IdentityFolder
from security.pki.certificates import facts_of
from tests.coordinator.served import Served, served
from tests.coordinator.status_visits import connect, ended, loaded, visitor


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("status")) as made:
        yield made


def loud(logs: Iterable[MutableMapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what the status page said, and how loud, except what somebody's network did."""
    return [
        (line["log_level"], line["event"])
        for line in logs
        if line["log_level"] != "debug" and "status page" in line["event"]
    ]


# -- requests ------------------------------------------------------------


def test_every_answer_forbids_what_a_page_does_not_need(fed: Served) -> None:
    who = visitor(fed, loaded(fed))
    targets = ("/", "/style.css", "/enter?ticket=x", "/nothing", "/?run=nobody", "/?page=x")
    replies = [who.ask(target) for target in targets]
    assert [reply.status for reply in replies] == [200, 200, 200, 404, 404, 200]
    for reply in [*replies, who.ask("/enter", "POST"), visitor(fed).ask("/"), who.ask("/", "DELETE")]:
        policy = reply.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; form-action 'self'")
        assert "unsafe" not in policy
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["X-Frame-Options"] == "DENY"
        assert "Python" not in reply.headers["Server"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_other_methods_are_refused(fed: Served, method: str) -> None:
    reply = visitor(fed, loaded(fed)).ask("/", method)
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD, POST")


def test_nothing_that_was_asked_comes_back(fed: Served) -> None:
    who = visitor(fed, loaded(fed))
    marked = "zq9x"
    for target in (
        f"/{marked}",
        f"/?run={marked}",
        f"/?page={marked}",
        f"/enter?ticket={marked}&next=//{marked}.example",
    ):
        for method in ("GET", "POST", marked.upper()):
            reply = who.ask(target, method)
            assert marked not in (reply.text + repr(reply.headers)).lower()


def test_requests_are_small(fed: Served) -> None:
    who = visitor(fed, loaded(fed))
    assert who.ask("/?run=" + "x" * 400).status == 414
    assert who.ask("/enter", "POST", Content_Length="5000").status == 413
    assert who.ask("/enter", "POST", Transfer_Encoding="chunked").status == 413
    assert who.ask("/", Cookie="x" * 30_000).status == 431
    assert who.ask("/" + "x" * 30_000).status in {400, 431}
    assert who.ask("/").status == 200


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "+1", "1_0", "0x1", "", "1, 1", "\xb2"])
def test_a_length_that_is_none_is_a_bad_request(fed: Served, length: str) -> None:
    with capture_logs() as logs:
        assert visitor(fed).ask("/enter", "POST", Content_Length=length).status == 400
    assert not loud(logs)


@pytest.mark.parametrize("target", ["/enter", "/", "/leave", "/nothing"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_too_many_fields_are_a_bad_request(fed: Served, method: str, target: str) -> None:
    with capture_logs() as logs:
        assert visitor(fed).ask(f"{target}?{'&'.join('abcdefghi')}", method).status == 400
    assert not loud(logs)


def test_whatever_fails_is_told_to_the_visitor_and_to_the_log_once(
    fed: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str, __: str) -> None:
        raise LookupError("zq9x")

    monkeypatch.setattr(fed.page.door, "enter", fail)
    with capture_logs() as logs:
        reply = visitor(fed).ask("/enter?ticket=x", "POST")
    assert reply.status == 500
    assert "log says why" in reply.text
    assert "zq9x" not in reply.text
    assert loud(logs) == [("error", "the status page failed")]


def test_behind_a_database_that_does_not_answer_visitors_are_told_so(
    fed: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.status_page.reader._PATIENCE_S", 0.1)
    arrived, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        arrived.set()
        go_on.wait(20)

    monkeypatch.setattr(fed.registry, "signed_list", wait)
    later = fed.registry.clock() + 5.0  # past what was read
    monkeypatch.setattr(fed.registry, "clock", lambda: later)
    who, found = visitor(fed, loaded(fed)), []
    first = threading.Thread(target=lambda: found.append(who.ask("/").status))
    first.start()
    assert arrived.wait(20)
    reply = who.ask("/")
    go_on.set()
    first.join()
    assert reply.status == 503
    assert "database is slow" in reply.text
    assert found == [200]


def test_head_has_no_body(fed: Served) -> None:
    reply = visitor(fed, loaded(fed)).ask("/", "HEAD")
    assert (reply.status, reply.text) == (200, "")
    assert int(reply.headers["Content-Length"]) == len(visitor(fed, loaded(fed)).ask("/").text.encode())


def test_what_is_not_tls_gets_no_answer(fed: Served) -> None:
    with connect(fed) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert ended(plain)


def test_who_says_nothing_is_cut_off_and_holds_up_nobody(fed: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.status_page.service._HANDSHAKE_S", 0.3)
    silent = [connect(fed) for _ in range(7)]
    assert visitor(fed, loaded(fed)).ask("/").status == 200
    for one in silent:
        assert ended(one)
        one.close()


def test_who_drips_a_request_is_cut_off(fed: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.status_page.service._LONGEST_S", 0.3)
    with connect(fed) as plain, visitor(fed).context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
        secured.sendall(b"GET / HTTP/1.1\r\n")
        assert ended(secured)


def test_one_address_cannot_take_all_connections(fed: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.status_page.service._HANDSHAKE_S", 60.0)
    silent = [connect(fed, "127.0.0.2") for _ in range(9)]
    assert ended(silent[-1])
    silent[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        silent[0].recv(1)
    assert visitor(fed, loaded(fed)).ask("/").status == 200
    for one in silent:
        one.close()


def test_too_many_at_once_are_turned_away(fed: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.status_page.service._HANDSHAKE_S", 3.0)
    silent = [connect(fed, f"127.0.0.{3 + number // 8}") for number in range(33)]
    assert ended(silent[-1])
    for one in silent:
        assert ended(one)
        one.close()
    assert visitor(fed, loaded(fed)).ask("/").status == 200


def test_a_connection_without_a_thread_takes_no_place(fed: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with capture_logs() as logs, monkeypatch.context() as patched:
        patched.setattr("socketserver.ThreadingMixIn.process_request", fail)
        for _ in range(40):
            with connect(fed) as one:
                assert ended(one)
    assert loud(logs) == [("error", "the status page could not take a connection")] * 40
    assert visitor(fed, loaded(fed)).ask("/").status == 200


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("somewhere", "somewhere"),
    ],
)
def test_neighbours_in_ipv6_count_as_one(address: str, place: str) -> None:
    assert place_of(address) == place


# -- the coordinator and its TLS ------------------------------------------------------------


def serial(fed: Served) -> str:
    """Return the serial of the certificate that the page shows."""
    with (
        connect(fed) as plain,
        visitor(fed).context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    return facts_of(ssl.DER_cert_to_PEM_cert(der).encode()).serial


def renew(fed: Served) -> str:
    """Renew the coordinator's certificate; return its serial."""
    folder, facts = IdentityFolder(fed.folder / "data" / "identity"), fed.credentials.loaded.facts
    request = folder.request_certificate(passphrase=None, dns_names=facts.dns_names, ip_addresses=facts.ip_addresses)
    folder.install_certificate(fed.registry.renew_own(request), now=datetime.now(UTC))
    fed.credentials.reload()
    return fed.credentials.loaded.facts.serial


def test_a_renewed_certificate_is_in_use_without_a_restart(fed: Served) -> None:
    before = serial(fed)
    assert before == fed.credentials.loaded.facts.serial
    assert renew(fed) == serial(fed) != before
    assert not list((fed.folder / "scratch").glob("tls-*"))


def test_a_renewed_certificate_that_cannot_be_loaded_leaves_the_page_its_old_one(
    fed: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> ssl.SSLContext:
        raise OSError(28, "No space left on device")

    before = serial(fed)
    with monkeypatch.context() as full, capture_logs() as logs:
        full.setattr("coordinator.status_page.tls._context", fail)
        renewed = renew(fed)
        assert [serial(fed), serial(fed)] == [before, before]
    assert [level for level, said in loud(logs) if "the certificate before" in said] == ["warning"]
    monkeypatch.setattr("coordinator.status_page.tls.time.monotonic", lambda: float("inf"))
    assert serial(fed) == renewed


def test_a_page_without_any_certificate_to_show_says_so_in_the_log(
    fed: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> ssl.SSLContext:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(fed.page._server._contexts, "current", fail)
        with connect(fed) as one:
            assert ended(one)
    assert loud(logs) == [("warning", "the status page has no certificate to show")]
    assert visitor(fed, loaded(fed)).ask("/").status == 200


def test_a_port_that_is_taken_is_an_error_that_names_the_key(fed: Served) -> None:
    contexts = Contexts(fed.credentials, fed.folder / "scratch")
    with pytest.raises(ConfigError, match=r"cannot listen at .*status_page\.listen"):
        StatusPage(fed.page.address, contexts=contexts, door=fed.page.door, reader=None)  # type: ignore[arg-type]
