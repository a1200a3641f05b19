"""Who gets to see the status page, over real TLS: certificates, one-time links, sessions, and what else is refused."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from coordinator.errors import RefusedError, StorageError, UnauthenticatedError
from coordinator.ports import Store
from coordinator.records import MemberState
from coordinator.status_page.door import Door
from coordinator.store import open_store
from security.folders import LoadedIdentity
from security.identity import Identity, Role
from security.keys import make_tls_key
from security.pki.authority import Authority, certify_issuer, issue, make_root
from security.pki.certificates import facts_of, join_bundle
from security.pki.requests import make_request, verify_request
from tests.coordinator.registry_at_hand import NOW, Clock
from tests.coordinator.served import CONSORTIUM, Served, served
from tests.coordinator.status_visits import link_of, loaded, somebody, visitor

EVE = somebody()


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("status")) as made:
        yield made


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


def test_a_member_whose_row_is_revoked_sees_nothing_whatever_became_of_the_certificate(
    fed: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    trent = enrolled(fed, "trent", "auditor")
    by_certificate, by_link = visitor(fed, trent), visitor(fed)
    assert by_link.ask(link_of(fed, who="trent"), "POST").status == 303
    assert [one.ask("/").status for one in (by_certificate, by_link)] == [200, 200]
    with fed.store.transaction() as transaction:
        transaction.put_member(replace(transaction.member("auditor", "trent"), state=MemberState.REVOKED))
    later = fed.registry.clock() + 5.0  # past what was read
    monkeypatch.setattr(fed.registry, "clock", lambda: later)
    assert [one.ask("/").status for one in (by_certificate, by_link)] == [401, 401]


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
    with fed.store.transaction() as transaction:
        last = transaction.last_audit()
        assert last is not None
        found = transaction.audit(after=last.sequence - 2, limit=2)
    assert [(row.action, row.outcome) for row in found] == [
        ("status.link.created", "accepted"),
        ("status.link.used", "accepted"),
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
def store(tmp_path: Path) -> Iterator[Store]:
    made = open_store(f"sqlite:///{tmp_path / 'db'}")
    yield made
    made.close()


@pytest.fixture
def at_the_door(store: Store) -> tuple[Door, Clock, set[str]]:
    clock, revoked = Clock(), set[str]()
    return Door(CONSORTIUM, revoked.__contains__, store, clock), clock, revoked


def refusals(store: Store) -> list[str]:
    """Return from which addresses wrong tickets came, as the audit log has it."""
    with store.transaction() as transaction:
        return [row.details["peer"] for row in transaction.audit(after=-1, limit=1000) if row.outcome == "refused"]


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


def test_no_session_and_no_link_outlives_the_certificate(at_the_door: tuple[Door, Clock, set[str]]) -> None:
    door, clock, _ = at_the_door
    short = somebody("short", not_after=NOW + 700.0)
    (first, _), (second, expires) = (door.ticket(short, 900.0) for _ in range(2))
    assert expires == NOW + 700.0
    cookie = door.enter(first, "::1")
    clock.now = NOW + 699.0
    assert door.of_cookie(cookie) == short
    clock.now = NOW + 700.0  # from here on no revocation would name its serial
    with pytest.raises(UnauthenticatedError):
        door.of_cookie(cookie)
    with pytest.raises(UnauthenticatedError):
        door.enter(second, "::1")


def test_strangers_cannot_fill_the_audit_log(at_the_door: tuple[Door, Clock, set[str]], store: Store) -> None:
    door, clock, _ = at_the_door

    def guess(peer: str, ticket: str = "x" * 43) -> None:
        with suppress(UnauthenticatedError):
            door.enter(ticket, peer)

    for ticket in ("", "wrong", "x" * 42, "x" * 44, "/" * 43):
        guess("10.0.0.1", ticket)
    assert not refusals(store)
    for _ in range(3):
        guess("10.0.0.1")
        for end in range(1, 4):
            guess(f"fd00::{end}")
    assert refusals(store) == ["10.0.0.1", "fd00::1"]
    clock.now += 60.0
    guess("10.0.0.1")
    assert refusals(store) == ["10.0.0.1", "fd00::1", "10.0.0.1"]
    for number in range(200):
        guess(f"10.1.0.{number}")
    assert len(refusals(store)) == 60
    clock.now += 3600.0
    guess("10.0.0.9")
    assert refusals(store)[-1] == "10.0.0.9"


def test_a_right_link_opens_whatever_else_came_from_its_address(at_the_door: tuple[Door, Clock, set[str]]) -> None:
    door, _, _ = at_the_door
    right = door.ticket(EVE, 600.0)[0]
    for _ in range(50):
        with pytest.raises(UnauthenticatedError):
            door.enter("x" * 43, "10.0.0.1")
    assert door.of_cookie(door.enter(right, "10.0.0.1")) == EVE


@pytest.mark.parametrize("lifetime_s", [-1.0, 59.0, 3601.0, float("nan"), float("inf")])
def test_lifetimes_have_limits(at_the_door: tuple[Door, Clock, set[str]], lifetime_s: float) -> None:
    with pytest.raises(RefusedError, match="cannot be valid"):
        at_the_door[0].ticket(EVE, lifetime_s)


def test_one_member_has_few_open_links_and_takes_none_from_others(at_the_door: tuple[Door, Clock, set[str]]) -> None:
    door, clock, _ = at_the_door
    for _ in range(10):
        door.ticket(EVE, 60.0)
    with pytest.raises(RefusedError, match="10 of your links are open"):
        door.ticket(replace(EVE, serial="f" * 40), 60.0)
    assert door.ticket(somebody("grace"), 60.0)
    clock.now += 60.0
    assert door.ticket(EVE, 0)[1] == clock.now + 900.0


def test_one_members_sessions_end_none_of_others(at_the_door: tuple[Door, Clock, set[str]]) -> None:
    door, _, _ = at_the_door
    grace = door.enter(door.ticket(somebody("grace"), 60.0)[0], "::1")
    cookies = [door.enter(door.ticket(EVE, 60.0)[0], "::1") for _ in range(21)]
    with pytest.raises(UnauthenticatedError):
        door.of_cookie(cookies[0])
    assert door.of_cookie(cookies[1]) == door.of_cookie(cookies[20]) == EVE
    assert door.of_cookie(grace).identity.id == "grace"


def test_a_link_that_is_not_on_record_does_not_exist(
    at_the_door: tuple[Door, Clock, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageError("the disk is full")

    door, _, _ = at_the_door
    with monkeypatch.context() as full:
        full.setattr("coordinator.status_page.door.record", fail)
        for _ in range(20):
            with pytest.raises(StorageError):
                door.ticket(EVE, 60.0)
    assert door.ticket(EVE, 60.0)
