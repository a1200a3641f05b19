"""The registry: who gets in, who does not, and that all of it is on record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coordinator.errors import ConflictError, ForbiddenError, NotFoundError, RefusedError
from coordinator.journal import to_record
from coordinator.records import MemberState, TokenState
from coordinator.registry import Awaiting, Registry
from coordinator.registry.refusals import RefusalMeter
from security import keys, membership, membership_file
from security.audit import verify_chain
from security.errors import (
    CertificateError,
    ExpiredTokenError,
    IdentityError,
    MembershipError,
    RevokedError,
    TokenError,
    UsedTokenError,
    WrongTokenError,
)
from security.identity import Identity, Role
from security.pki.certificates import facts_of, split_bundle
from security.pki.requests import make_request
from tests.coordinator.registry_at_hand import ADMIN, CONSORTIUM, Clock, Office, authorities, open_office

DAY = 86_400.0


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = open_office(tmp_path)
    yield made
    verify_chain(to_record(row) for row in made.audit())
    made.store.close()


def serial(chain: bytes | Awaiting) -> str:
    assert isinstance(chain, bytes)
    return facts_of(chain).serial


def last(office: Office) -> tuple[str, str, str]:
    row = office.audit()[-1]
    return row.action, row.subject.rpartition("/")[2], row.outcome


# -- tokens ---------------------------------------------------------------------------------------------------------


def test_a_token_is_kept_without_its_secret(office: Office) -> None:
    text, row = office.registry.create_token(Role.SITE, "a", modalities=("t1", "flair"), actor=ADMIN)
    assert text.split(".")[2] not in repr(office.registry.tokens())
    assert row.modalities == ("flair", "t1")
    assert last(office) == ("token.created", "a", "accepted")


def test_a_second_open_token_is_refused_until_the_first_is_over(office: Office) -> None:
    _, first = office.registry.create_token(Role.SITE, "a", actor=ADMIN)
    with pytest.raises(ConflictError, match="there is a token for site a already"):
        office.token("a")
    assert last(office) == ("token.created", "a", "refused")
    office.token("a", Role.OPERATOR)
    office.registry.revoke_token(first.token_id, actor=ADMIN)
    office.token("a")
    office.clock.now += 2 * DAY
    office.token("a")


@pytest.mark.parametrize(
    ("role", "name", "options", "error"),
    [
        (Role.COORDINATOR, "c", {}, RefusedError),
        (Role.SITE, "not an id", {}, IdentityError),
        (Role.SITE, "a", {"lifetime_s": 5.0}, RefusedError),
        (Role.SITE, "a", {"lifetime_s": float("nan")}, RefusedError),
        (Role.SITE, "a", {"lifetime_s": 31 * DAY}, RefusedError),
        (Role.SITE, "a", {"modalities": ("t1", "t1")}, RefusedError),
        (Role.SITE, "a", {"modalities": ("t 1",)}, IdentityError),
        (Role.ADMIN, "a", {"modalities": ("t1",)}, RefusedError),
    ],
)
def test_what_a_token_cannot_be_for(office: Office, role: Role, name: str, options: dict, error: type) -> None:
    with pytest.raises(error):
        office.token(name, role, **options)
    assert office.registry.tokens() == ()


def test_a_token_for_an_enrolled_party_needs_a_word(office: Office) -> None:
    office.enrolled("a")
    with pytest.raises(ConflictError, match=r"enrolled already.*--replace"):
        office.token("a")
    office.token("a", replace=True)


def test_a_used_token_cannot_be_revoked_and_an_unknown_one_neither(office: Office) -> None:
    office.enrolled("a")
    (row,) = office.registry.tokens()
    with pytest.raises(ConflictError, match="was used by site a"):
        office.registry.revoke_token(row.token_id, actor=ADMIN)
    with pytest.raises(NotFoundError):
        office.registry.revoke_token("0" * 16, actor=ADMIN)


# -- enrolment ------------------------------------------------------------------------------------------------------


def test_a_newcomer_with_its_token_gets_a_certificate(office: Office) -> None:
    who = office.newcomer("a", "t1", "flair")
    chain = office.registry.enrol(who.attempt(office.token("a")))
    assert isinstance(chain, bytes)
    leaf, issuer = split_bundle(chain)
    assert issuer == authorities().issuer.certificate
    assert facts_of(leaf).identity == who.identity
    assert leaf.public_key() == who.tls_key.public_key()
    row = office.registry.member(Role.SITE, "a")
    assert (row.modalities, row.state, row.serial) == (("flair", "t1"), MemberState.ENROLLED, serial(chain))
    assert last(office) == ("member.enrolled", "a", "accepted")


def test_the_same_newcomer_gets_the_same_certificate_again_even_late(office: Office) -> None:
    who, token = office.newcomer("a"), office.token("a")
    first = office.registry.enrol(who.attempt(token))
    records = len(office.audit())
    office.clock.now += 2 * DAY
    assert office.registry.enrol(who.attempt(token)) == first
    assert len(office.audit()) == records


def test_a_used_token_in_other_hands_is_refused_and_recorded(office: Office) -> None:
    token = office.token("a")
    office.registry.enrol(office.newcomer("a").attempt(token))
    with pytest.raises(UsedTokenError):
        office.registry.enrol(office.newcomer("a").attempt(token), peer="ipv4:192.0.2.9")
    assert last(office) == ("member.enrolled", "a", "refused")
    assert office.audit()[-1].details["peer"] == "ipv4:192.0.2.9"


def test_wrong_unknown_expired_and_revoked_tokens(office: Office) -> None:
    who, token = office.newcomer("a"), office.token("a")
    with pytest.raises(WrongTokenError, match="not known"):
        office.registry.enrol(who.attempt(token, token_secret="a" * 32))
    with pytest.raises(WrongTokenError, match="not known"):
        office.registry.enrol(who.attempt(token, token_id="0" * 16))
    with pytest.raises(WrongTokenError, match=r"is for .*/site/a, not for"):
        office.registry.enrol(office.newcomer("b").attempt(token))
    with pytest.raises(WrongTokenError, match=r"is for .*/site/a, not for"):
        office.registry.enrol(office.newcomer("a", role=Role.ADMIN).attempt(token))
    office.clock.now += DAY
    with pytest.raises(ExpiredTokenError):
        office.registry.enrol(who.attempt(token))
    fresh, row = office.registry.create_token(Role.SITE, "a", actor=ADMIN)
    office.registry.revoke_token(row.token_id, actor=ADMIN)
    with pytest.raises(TokenError, match="was revoked"):
        office.registry.enrol(who.attempt(fresh))
    assert office.registry.members() == ()


def test_proofs_that_do_not_fit_are_refused_and_the_token_stays_good(office: Office) -> None:
    who, other, token = office.newcomer("a"), office.newcomer("a"), office.token("a")
    for changes in (
        {"identity_proof": bytes(64)},
        {"identity_proof": b""},
        {"identity_public_key": keys.public_bytes(other.identity_key)},
        {"identity_public_key": b"short"},
        {"certificate_request_pem": other.request},
        {"certificate_request_pem": b"nonsense"},
        {"certificate_request_pem": b"x" * 20_000},
    ):
        with pytest.raises(CertificateError):
            office.registry.enrol(who.attempt(token, **changes))
    assert isinstance(office.registry.enrol(who.attempt(token)), bytes)


def test_modalities_must_be_those_of_the_token_and_a_sites(office: Office) -> None:
    token = office.token("a", modalities=("flair", "t1"))
    with pytest.raises(RefusedError, match="is for a site with flair, t1, not with flair"):
        office.registry.enrol(office.newcomer("a", "flair").attempt(token))
    for wrong in ((), ("t1", "t1"), tuple(f"m{i}" for i in range(65))):
        with pytest.raises(RefusedError):
            office.registry.enrol(office.newcomer("a").attempt(token, modalities=wrong))
    office.registry.enrol(office.newcomer("a", "t1", "flair").attempt(token))
    person = office.newcomer("p", role=Role.AUDITOR)
    with pytest.raises(RefusedError, match="has no modalities"):
        office.registry.enrol(person.attempt(office.token("p", Role.AUDITOR), modalities=("t1",)))


def test_two_parties_cannot_share_an_identity_key(office: Office) -> None:
    first, second = office.enrolled("a"), office.newcomer("b")
    second.identity_key = first.identity_key
    with pytest.raises(ConflictError, match="belongs to site a already"):
        office.registry.enrol(second.attempt(office.token("b")))


def test_names_asked_for_by_a_client_are_not_granted(office: Office) -> None:
    who = office.newcomer("a")
    who.request = make_request(who.identity, who.tls_key, dns_names=("fed.example.org",))
    chain = office.registry.enrol(who.attempt(office.token("a")))
    assert isinstance(chain, bytes)
    assert facts_of(chain).dns_names == ()


def test_an_approval_comes_between_token_and_certificate(office: Office) -> None:
    text, row = office.registry.create_token(Role.SITE, "a", approval=True, actor=ADMIN)
    who = office.newcomer("a")
    with pytest.raises(ConflictError, match="is open; nobody waits"):
        office.registry.approve(row.token_id, actor=ADMIN)
    assert isinstance(office.registry.enrol(who.attempt(text)), Awaiting)
    assert isinstance(office.registry.enrol(who.attempt(text)), Awaiting)
    with pytest.raises(UsedTokenError):
        office.registry.enrol(office.newcomer("a").attempt(text))
    with pytest.raises(ConflictError, match="awaiting approval"):
        office.token("a")
    assert office.registry.members() == ()
    office.clock.now += 3 * DAY
    member = office.registry.approve(row.token_id, actor=ADMIN)
    assert office.audit()[-1].actor == ADMIN
    assert serial(office.registry.enrol(who.attempt(text))) == member.serial
    with pytest.raises(ConflictError, match="is used"):
        office.registry.approve(row.token_id, actor=ADMIN)
    with pytest.raises(NotFoundError):
        office.registry.approve("0" * 16, actor=ADMIN)


def test_a_waiting_newcomer_can_be_turned_away(office: Office) -> None:
    text, row = office.registry.create_token(Role.SITE, "a", approval=True, actor=ADMIN)
    who = office.newcomer("a")
    office.registry.enrol(who.attempt(text))
    assert office.registry.revoke_token(row.token_id, actor=ADMIN).state is TokenState.REVOKED
    with pytest.raises(TokenError, match="was revoked"):
        office.registry.enrol(who.attempt(text))


def test_enrolling_again_replaces_key_and_certificate(office: Office) -> None:
    old = office.enrolled("a")
    before = office.registry.member(Role.SITE, "a")
    new = office.enrolled("a", "t1", replace=True)
    after = office.registry.member(Role.SITE, "a")
    assert after.identity_public_key == keys.public_bytes(new.identity_key) != keys.public_bytes(old.identity_key)
    assert after.modalities == ("t1",)
    assert office.registry.is_revoked(before.serial)
    assert not office.registry.is_revoked(after.serial)


def test_strangers_cannot_fill_the_audit_log(office: Office) -> None:
    who, token = office.newcomer("a"), office.token("a")
    for _ in range(50):
        with pytest.raises(WrongTokenError):
            office.registry.enrol(who.attempt(token, token_secret="b" * 32))
    assert len([row for row in office.audit() if row.outcome == "refused"]) == 20


def test_the_meter_begins_anew_each_minute() -> None:
    clock = Clock()
    meter = RefusalMeter(clock, per_minute=2)
    assert [meter.allows() for _ in range(3)] == [True, True, False]
    clock.now += 60
    assert meter.allows()


# -- renewal and revocation -----------------------------------------------------------------------------------------


def test_a_member_renews_and_keeps_what_it_is(office: Office) -> None:
    who = office.enrolled("a", "flair", "t1")
    before = office.registry.member(Role.SITE, "a")
    office.clock.now += 60 * DAY
    chain = office.registry.renew(who.identity, make_request(who.identity, keys.make_tls_key()))
    after = office.registry.member(Role.SITE, "a")
    changed = replace(before, serial=after.serial, certificate_expires=after.certificate_expires)
    assert changed == after != before
    assert serial(chain) == after.serial
    assert last(office) == ("certificate.renewed", "a", "accepted")


def test_nobody_renews_for_another_or_after_a_revocation(office: Office) -> None:
    who, other = office.enrolled("a"), office.enrolled("b")
    with pytest.raises(ForbiddenError, match=r"asks for a certificate of .*/site/b"):
        office.registry.renew(who.identity, make_request(other.identity, keys.make_tls_key()))
    office.registry.revoke(Role.SITE, "a", "lost", actor=ADMIN)
    with pytest.raises(ForbiddenError, match="was revoked"):
        office.registry.renew(who.identity, make_request(who.identity, keys.make_tls_key()))
    assert last(office) == ("certificate.renewed", "a", "refused")


def test_the_coordinator_renews_with_its_names_and_nobody_else_does_so(office: Office) -> None:
    own = Identity(consortium=CONSORTIUM, role=Role.COORDINATOR, id="central")
    chain = office.registry.renew_own(make_request(own, keys.make_tls_key(), dns_names=("fed.example.org",)))
    assert facts_of(chain).dns_names == ("fed.example.org",)
    site = Identity(consortium=CONSORTIUM, role=Role.SITE, id="a")
    with pytest.raises(ForbiddenError):
        office.registry.renew_own(make_request(site, keys.make_tls_key()))


def test_a_revocation_reaches_all_live_certificates_at_once(office: Office) -> None:
    who = office.enrolled("a")
    serials = {office.registry.member(Role.SITE, "a").serial}
    for _ in range(2):
        office.clock.now += DAY
        serials.add(serial(office.registry.renew(who.identity, make_request(who.identity, keys.make_tls_key()))))
    other = office.enrolled("b")
    assert set(office.registry.revoke(Role.SITE, "a", "stolen", actor=ADMIN)) == serials
    assert all(map(office.registry.is_revoked, serials))
    assert not office.registry.is_revoked(office.registry.member(Role.SITE, other.identity.id).serial)
    row = office.registry.member(Role.SITE, "a")
    assert (row.state, row.reason) == (MemberState.REVOKED, "stolen")
    known = authorities()
    again = Registry(office.store, issuer=known.issuer, trust=known.trust, clock=office.clock)
    assert all(map(again.is_revoked, serials))
    with pytest.raises(NotFoundError):
        office.registry.revoke(Role.SITE, "nobody", "", actor=ADMIN)


def test_a_certificate_that_has_expired_needs_no_revocation(office: Office) -> None:
    office.enrolled("a")
    office.clock.now += 400 * DAY
    assert office.registry.revoke(Role.SITE, "a", "gone", actor=ADMIN) == ()


def test_a_revoked_newcomer_does_not_get_its_certificate_again(office: Office) -> None:
    who, token = office.newcomer("a"), office.token("a")
    office.registry.enrol(who.attempt(token))
    office.registry.revoke(Role.SITE, "a", "stolen", actor=ADMIN)
    with pytest.raises(RevokedError):
        office.registry.enrol(who.attempt(token))
    office.enrolled("a")
    assert office.registry.member(Role.SITE, "a").state is MemberState.ENROLLED


# -- the signed list ------------------------------------------------------------------------------------------------


def test_sites_are_admitted_by_the_signed_list_alone(office: Office) -> None:
    first, second = office.enrolled("a", "t1", "flair"), office.enrolled("b")
    assert office.registry.admitted_sites() == {}
    document = office.signed(first)
    assert office.registry.publish(document, actor=ADMIN) == 1
    assert office.registry.membership() == document
    assert office.registry.admitted_sites() == {"a": ("flair", "t1")}
    assert office.registry.publish(office.signed(first, second, version=7), actor=ADMIN) == 7
    assert set(office.registry.admitted_sites()) == {"a", "b"}
    assert office.registry.admitted_sites(office.clock() + 11 * DAY) == {}
    office.registry.revoke(Role.SITE, "b", "", actor=ADMIN)
    assert set(office.registry.admitted_sites()) == {"a"}


def test_the_list_in_force_again_changes_nothing(office: Office) -> None:
    document = office.signed(office.enrolled("a"))
    office.registry.publish(document, actor=ADMIN)
    records = len(office.audit())
    assert office.registry.publish(document, actor=ADMIN) == 1
    assert len(office.audit()) == records


def test_lists_that_are_refused(office: Office) -> None:
    site, stranger = office.enrolled("a"), office.newcomer("z")
    other_modalities, other_key = office.newcomer("a", "t2"), office.newcomer("a")
    other_modalities.identity_key = site.identity_key
    office.registry.publish(office.signed(site, version=3), actor=ADMIN)
    later = datetime.fromtimestamp(office.clock() + 3600, UTC)
    for document, match in (
        (b"{}", "not signed"),
        (b"\xff", "malformed"),
        (office.signed(site, version=2), "has version 2, and version 3"),
        (office.signed(site, version=3, members=()), "two different signed"),
        (office.signed(site, version=4, consortium="other.example"), "is for other.example"),
        (office.signed(site, version=4, issued_at=later), "clock"),
    ):
        with pytest.raises(MembershipError, match=match):
            office.registry.publish(document, actor=ADMIN)
    for entry, match in (
        (stranger, "not enrolled"),
        (other_key, "another identity key"),
        (other_modalities, "enrolled with flair"),
    ):
        with pytest.raises(ConflictError, match=match):
            office.registry.publish(office.signed(entry, version=4), actor=ADMIN)
    office.registry.revoke(Role.SITE, "a", "", actor=ADMIN)
    with pytest.raises(ConflictError, match="is revoked"):
        office.registry.publish(office.signed(site, version=4), actor=ADMIN)
    assert last(office) == ("membership.published", "membership", "refused")


def test_a_list_signed_by_another_key_is_refused(office: Office) -> None:
    site = office.enrolled("a")
    genuine = membership_file.from_json(office.signed(site)).unverified
    forged = membership_file.to_json(membership.sign(genuine, keys.make_signing_key()))
    with pytest.raises(MembershipError, match="not signed by the pinned"):
        office.registry.publish(forged, actor=ADMIN)


def test_enrolling_again_takes_a_site_out_until_the_list_is_signed_anew(office: Office) -> None:
    site = office.enrolled("a")
    office.registry.publish(office.signed(site), actor=ADMIN)
    new = office.enrolled("a", replace=True)
    assert office.registry.admitted_sites() == {}
    office.registry.publish(office.signed(new, version=2), actor=ADMIN)
    assert office.registry.admitted_sites() == {"a": ("flair",)}


def test_what_another_process_changed_is_seen_after_a_refresh(office: Office) -> None:
    office.enrolled("a")
    known = authorities()
    other = Registry(office.store, issuer=known.issuer, trust=known.trust, clock=office.clock)
    (revoked,) = other.revoke(Role.SITE, "a", "", actor=ADMIN)
    assert not office.registry.is_revoked(revoked)
    office.registry.refresh()
    assert office.registry.is_revoked(revoked)
