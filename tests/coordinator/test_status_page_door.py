"""Who gets to see the status page, over real TLS: certificates, one-time links, sessions, and what else is refused."""

from __future__ import annotations

import socket
import ssl
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

from coordinator.cli.admin import main as admin_main
from coordinator.cli.admin.status_page import place_of
from coordinator.errors import ConfigError, RefusedError, UnauthenticatedError
from coordinator.status_page import Contexts, StatusPage
from coordinator.status_page.door import Door, TooManyError
from coordinator.status_page.door import Visitor as Somebody
from coordinator.store import open_store
from security.folders import IdentityFolder, LoadedIdentity
from security.identity import Identity, Role
from security.keys import make_tls_key
from security.pki.authority import Authority, certify_issuer, issue, make_root
from security.pki.certificates import facts_of, join_bundle
from security.pki.requests import make_request, verify_request
from tests.coordinator.registry_at_hand import NOW, Clock
from tests.coordinator.served import CONSORTIUM, Served, command, served
from tests.coordinator.status_at_hand import Visitor

EVE = Somebody(identity=Identity(consortium=CONSORTIUM, role=Role.AUDITOR, id="eve"), serial="e" * 40)


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("status")) as made:
        yield made


def loaded(fed: Served, name: str = "alice") -> LoadedIdentity:
    return IdentityFolder(fed.folder / name).load(None)


def visitor(fed: Served, certificate: LoadedIdentity | None = None, **options: object) -> Visitor:
    trust = fed.credentials.loaded.trust
    return Visitor(fed.page.address, trust.root_pem, fed.folder, certificate, **options)  # type: ignore[arg-type]


def link_of(fed: Served, *words: str, who: str = "alice") -> str:
    said = fed.admin("status-page", "link", *words, who=who)
    assert said.code == 0, said.err
    return said.out.strip()


def enrolled(fed: Served, name: str, role: str) -> LoadedIdentity:
    said = fed.admin("tokens", "create", name, "--role", role)
    assert said.code == 0, said.err
    assert fed.enrol(said.out.strip(), name, role).code == 0
    return loaded(fed, name)


def _site(fed: Served, name: str) -> LoadedIdentity:
    """Return an identity with a site's certificate, as the issuer makes them."""
    alice, key = loaded(fed), make_tls_key()
    who = Identity(consortium=CONSORTIUM, role=Role.SITE, id=name)
    issuer: Authority = fed.registry._office.issuer
    leaf = issue(issuer, who, key.public_key(), now=datetime.now(UTC))
    chain = join_bundle([leaf, issuer.certificate])
    return replace(alice, identity=who, tls_key=key, chain_pem=chain, facts=facts_of(leaf))


# -- certificates ------------------------------------------------------------


def test_without_certificate_or_session_a_visitor_learns_how_to_get_in(fed: Served) -> None:
    reply = visitor(fed).ask("/")
    assert reply.status == 401
    assert "fedmepd-admin status-page link" in reply.text
    assert CONSORTIUM not in reply.text


@pytest.mark.parametrize("role", ["admin", "operator", "auditor"])
def test_readers_see_the_page_by_their_certificate(fed: Served, role: str) -> None:
    who = loaded(fed) if role == "admin" else enrolled(fed, f"reader-{role}", role)
    reply = visitor(fed, who).ask("/")
    assert reply.status == 200
    assert f"you are {role} {who.identity.id}" in reply.text
    assert "End this session" not in reply.text


def test_a_site_is_told_that_the_page_is_not_for_its_role(fed: Served) -> None:
    reply = visitor(fed, _site(fed, "hospital-a")).ask("/")
    assert reply.status == 403
    assert CONSORTIUM not in reply.text


def test_a_certificate_of_another_consortium_gets_no_connection(fed: Served) -> None:
    now = datetime.now(UTC)
    root, key = make_root(CONSORTIUM, now=now), make_tls_key()
    central = verify_request(make_request(Identity(consortium=CONSORTIUM, role=Role.COORDINATOR, id="x"), key))
    issuer = Authority(key=key, certificate=certify_issuer(root, central, now=now))
    who, own = Identity(consortium=CONSORTIUM, role=Role.ADMIN, id="alice"), make_tls_key()
    leaf = issue(issuer, who, own.public_key(), now=now)
    chain = join_bundle([leaf, issuer.certificate])
    stranger = replace(loaded(fed), tls_key=own, chain_pem=chain)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        visitor(fed, stranger).ask("/")


def test_a_revoked_certificate_and_the_sessions_it_asked_for_end_at_once(fed: Served) -> None:
    mallory = enrolled(fed, "mallory", "auditor")
    by_certificate, by_link = visitor(fed, mallory), visitor(fed)
    assert by_link.ask(link_of(fed, who="mallory"), "POST").status == 303
    waiting = link_of(fed, who="mallory")
    assert [one.ask("/").status for one in (by_certificate, by_link)] == [200, 200]
    said = fed.admin("members", "revoke", "auditor", "mallory", "--reason", "left", "--yes")
    assert said.code == 0, said.err
    assert [one.ask("/").status for one in (by_certificate, by_link)] == [401, 401]
    assert visitor(fed).ask(waiting, "POST").status == 401


def test_only_tls_1_3_is_spoken(fed: Served) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        visitor(fed, newest_tls=ssl.TLSVersion.TLSv1_2).ask("/")


# -- links ------------------------------------------------------------


def test_a_link_opens_the_page_once_and_looking_at_it_does_not_use_it_up(fed: Served) -> None:
    url, eve = link_of(fed), visitor(fed)
    for method in ("GET", "HEAD", "GET"):
        looked = eve.ask(url, method)
        assert (looked.status, eve.cookie) == (200, "")
    assert '<form method="post">' in looked.text
    assert urlsplit(url).query.partition("=")[2] not in looked.text
    opened = eve.ask(url, "POST")
    assert (opened.status, opened.headers["Location"]) == (303, "/")
    attributes = opened.headers["Set-Cookie"].partition("; ")[2]
    assert attributes == "Path=/; Max-Age=28800; Secure; HttpOnly; SameSite=Strict"
    page = eve.ask("/")
    assert page.status == 200
    assert "you are admin alice by link" in page.text
    assert visitor(fed).ask(url, "POST").status == 401


def test_what_was_created_and_used_is_in_the_audit_log(fed: Served) -> None:
    url = link_of(fed, "--minutes", "2")
    assert visitor(fed).ask(url, "POST").status == 303
    assert visitor(fed).ask(url, "POST").status == 401
    with fed.store.transaction() as transaction:
        last = transaction.last_audit()
        assert last is not None
        found = transaction.audit(after=last.sequence - 3, limit=3)
    assert [(row.action, row.outcome) for row in found] == [
        ("status.link.created", "accepted"),
        ("status.link.used", "accepted"),
        ("status.link.used", "refused"),
    ]
    ticket = urlsplit(url).query.partition("=")[2]
    assert found[0].actor == found[1].actor == loaded(fed).identity.uri
    assert ticket not in repr(found)


def test_a_session_can_be_ended(fed: Served) -> None:
    eve = visitor(fed)
    eve.ask(link_of(fed), "POST")
    kept = eve.cookie
    assert "End this session" in eve.ask("/").text
    left = eve.ask("/leave", "POST")
    assert (left.status, left.headers["Location"]) == (303, "/")
    assert eve.cookie == "__Host-fedmepd="
    eve.cookie = kept
    assert eve.ask("/").status == 401


def test_another_page_cannot_send_a_visitor_in(fed: Served) -> None:
    url, eve = link_of(fed), visitor(fed)
    assert eve.ask(url, "POST", Sec_Fetch_Site="cross-site").status == 403
    assert eve.ask(url, "POST", Sec_Fetch_Site="same-origin").status == 303


def test_a_cookie_of_another_run_of_the_server_opens_nothing(fed: Served, tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'db'}")
    other = Door(CONSORTIUM, lambda _: False, store, fed.registry.clock)
    cookie = other.enter(other.ticket(EVE, 0)[0], "::1")
    assert other.of_cookie(cookie) == EVE
    eve = visitor(fed, cookie=f"__Host-fedmepd={cookie}")
    assert eve.ask("/").status == 401
    store.close()


@pytest.mark.parametrize("cookie", ["__Host-fedmepd=", "other=1", "=;=", "\x01", "__Host-fedmepd=" + "x" * 4000])
def test_made_up_cookies_open_nothing(fed: Served, cookie: str) -> None:
    assert visitor(fed, cookie=cookie).ask("/").status == 401


# -- the door alone ------------------------------------------------------------


@pytest.fixture
def at_the_door(tmp_path: Path) -> Iterator[tuple[Door, Clock, set[str]]]:
    store, clock, revoked = open_store(f"sqlite:///{tmp_path / 'db'}"), Clock(), set[str]()
    yield Door(CONSORTIUM, revoked.__contains__, store, clock), clock, revoked
    store.close()


def test_tickets_and_sessions_end_in_their_time(at_the_door: tuple[Door, Clock, set[str]]) -> None:
    door, clock, revoked = at_the_door
    first, second = (door.ticket(EVE, 600.0)[0] for _ in range(2))
    clock.now = NOW + 599.0
    cookie = door.enter(first, "::1")
    clock.now = NOW + 600.0
    with pytest.raises(UnauthenticatedError):
        door.enter(second, "::1")
    clock.now = NOW + 599.0 + 8 * 3600.0 - 1.0
    assert door.of_cookie(cookie) == EVE
    revoked.add(EVE.serial)
    with pytest.raises(UnauthenticatedError, match="revoked"):
        door.of_cookie(cookie)
    revoked.clear()
    clock.now += 1.0
    with pytest.raises(UnauthenticatedError):
        door.of_cookie(cookie)


def test_whoever_brings_many_wrong_tickets_waits_and_others_do_not(at_the_door: tuple[Door, Clock, set[str]]) -> None:
    door, clock, _ = at_the_door
    right = [door.ticket(EVE, 600.0)[0] for _ in range(2)]
    for _ in range(20):
        with pytest.raises(UnauthenticatedError):
            door.enter("wrong", "10.0.0.1")
    with pytest.raises(TooManyError):
        door.enter(right[0], "10.0.0.1")
    assert door.enter(right[1], "10.0.0.2")
    clock.now += 60.0
    assert door.enter(right[0], "10.0.0.1")


@pytest.mark.parametrize("lifetime_s", [-1.0, 59.0, 3601.0, float("nan"), float("inf")])
def test_lifetimes_have_limits(at_the_door: tuple[Door, Clock, set[str]], lifetime_s: float) -> None:
    with pytest.raises(RefusedError, match="cannot be valid"):
        at_the_door[0].ticket(EVE, lifetime_s)


def test_open_links_are_few_and_make_room_when_they_expire(at_the_door: tuple[Door, Clock, set[str]]) -> None:
    door, clock, _ = at_the_door
    for _ in range(100):
        door.ticket(EVE, 60.0)
    with pytest.raises(RefusedError, match="100 links are open"):
        door.ticket(EVE, 60.0)
    clock.now += 60.0
    assert door.ticket(EVE, 0)[1] == clock.now + 900.0


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


def test_head_has_no_body(fed: Served) -> None:
    reply = visitor(fed, loaded(fed)).ask("/", "HEAD")
    assert (reply.status, reply.text) == (200, "")
    assert int(reply.headers["Content-Length"]) == len(visitor(fed, loaded(fed)).ask("/").text.encode())


def ended(connection: socket.socket) -> bool:
    """Whether the other end hangs up without a word of HTTP."""
    try:
        return not connection.recv(10).startswith(b"HTTP")
    except ConnectionResetError:
        return True


def test_what_is_not_tls_gets_no_answer(fed: Served) -> None:
    host, _, port = fed.page.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert ended(plain)


def test_who_says_nothing_is_cut_off_and_holds_up_nobody(fed: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.status_page.service._LONGEST_S", 0.3)
    host, _, port = fed.page.address.rpartition(":")
    silent = [socket.create_connection((host, int(port)), timeout=20) for _ in range(20)]
    assert visitor(fed, loaded(fed)).ask("/").status == 200
    for one in silent:
        assert ended(one)
        one.close()


def test_too_many_at_once_are_turned_away(fed: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.status_page.service._LONGEST_S", 3.0)
    host, _, port = fed.page.address.rpartition(":")
    silent = [socket.create_connection((host, int(port)), timeout=20) for _ in range(33)]
    assert ended(silent[-1])
    for one in silent:
        assert ended(one)
        one.close()
    assert visitor(fed, loaded(fed)).ask("/").status == 200


# -- the coordinator and its TLS ------------------------------------------------------------


def test_a_renewed_certificate_is_in_use_without_a_restart(fed: Served) -> None:
    def serial() -> str:
        host, _, port = fed.page.address.rpartition(":")
        context = visitor(fed).context
        with (
            socket.create_connection((host, int(port))) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            der = secured.getpeercert(binary_form=True)
        assert der is not None
        return facts_of(ssl.DER_cert_to_PEM_cert(der).encode()).serial

    before = serial()
    assert before == fed.credentials.loaded.facts.serial
    folder, facts = IdentityFolder(fed.folder / "data" / "identity"), fed.credentials.loaded.facts
    request = folder.request_certificate(passphrase=None, dns_names=facts.dns_names, ip_addresses=facts.ip_addresses)
    folder.install_certificate(fed.registry.renew_own(request), now=datetime.now(UTC))
    fed.credentials.reload()
    assert serial() == fed.credentials.loaded.facts.serial != before
    assert not list((fed.folder / "scratch").glob("tls-*"))


def test_a_port_that_is_taken_is_an_error_that_names_the_key(fed: Served) -> None:
    contexts = Contexts(fed.credentials, fed.folder / "scratch")
    with pytest.raises(ConfigError, match=r"cannot listen at .*status_page\.listen"):
        StatusPage(fed.page.address, contexts=contexts, door=fed.page.door, reader=None)  # type: ignore[arg-type]


# -- commands ------------------------------------------------------------


def test_a_link_says_where_the_page_is_found(fed: Served) -> None:
    assert link_of(fed).startswith(f"https://{fed.page.address}/enter?ticket=")
    assert link_of(fed, "--at", "status.example").startswith(
        f"https://status.example:{fed.page.address.rpartition(':')[2]}/enter?ticket="
    )
    assert '"expires"' in link_of(fed, "--json")


@pytest.mark.parametrize(
    ("listens", "members", "at", "place", "hint"),
    [
        ("0.0.0.0:8445", "fed.example:8443", "", "fed.example:8445", ""),
        ("[::]:8445", "[fd00::1]:8443", "", "[fd00::1]:8445", ""),
        ("127.0.0.1:8445", "localhost:8443", "", "127.0.0.1:8445", ""),
        ("127.0.0.1:8445", "fed.example:8443", "", "127.0.0.1:8445", "ssh -L 8445:127.0.0.1:8445 fed.example"),
        ("10.1.2.3:8445", "fed.example:8443", "", "10.1.2.3:8445", ""),
        ("10.1.2.3:8445", "fed.example:8443", "status.example:443", "status.example:443", ""),
    ],
)
def test_a_browser_is_sent_where_it_can_reach_the_page(
    listens: str, members: str, at: str, place: str, hint: str
) -> None:
    found, told = place_of(listens, members, at)
    assert found == place
    assert hint in told if hint else not told


def test_a_certificate_for_browsers_is_private_and_whole(fed: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    out = fed.folder / "me.p12"
    words = ("status-page", "certificate", "--out", out, "--identity", fed.folder / "alice")
    assert "FEDMEPD_P12_PASSWORD" in command(admin_main, *words).err
    monkeypatch.setenv("FEDMEPD_P12_PASSWORD", "short")
    assert command(admin_main, *words).code == 2
    assert not out.exists()
    monkeypatch.setenv("FEDMEPD_P12_PASSWORD", "correct horse")
    said = command(admin_main, *words)
    assert said.code == 0, said.err
    assert "Import it into your browser" in said.err
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    key, leaf, above = pkcs12.load_key_and_certificates(out.read_bytes(), b"correct horse")
    alice = loaded(fed)
    assert key is not None
    assert leaf is not None
    assert key.private_numbers() == alice.tls_key.private_numbers()  # type: ignore[union-attr]  # P-256
    assert facts_of(leaf).identity == alice.identity
    assert join_bundle([leaf, *above]) == alice.chain_pem + alice.trust.root_pem
    assert command(admin_main, *words).code == 2
