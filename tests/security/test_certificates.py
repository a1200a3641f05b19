"""Certificates: each way to be wrong has its error and its remedy, and every chain that is right passes."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv4Address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from security import keys
from security.errors import (
    CertificateError,
    ExpiredError,
    IdentityError,
    NotYetValidError,
    RevokedError,
    UnknownAuthorityError,
    WrongRoleError,
)
from security.identity import Identity, Role
from security.pki.authority import Authority, certify_issuer, issue, make_root
from security.pki.certificates import (
    Usage,
    facts_of,
    fingerprint,
    join_bundle,
    refuse_revoked,
    serial_of,
    split_bundle,
    verify_chain,
)
from security.pki.requests import make_request, verify_request
from security.pki.trust import Trust, verify_trust


def check(pki, leaf, now, usage=Usage.CLIENT, **options):
    return verify_chain(leaf, [pki.issuer.certificate], pki.root.certificate, now=now, usage=usage, **options)


@pytest.mark.parametrize("role", [Role.SITE, Role.ADMIN, Role.OPERATOR, Role.AUDITOR])
def test_clients_are_believed_as_clients_only(pki, now, role):
    _, leaf = pki.leaf(role)
    assert check(pki, leaf, now, role=role).identity.role is role
    with pytest.raises(WrongRoleError, match="may not be used as a server"):
        check(pki, leaf, now, Usage.SERVER)


def test_a_coordinator_is_believed_at_both_ends(pki, now):
    _, leaf = pki.server()
    for usage in Usage:
        facts = check(pki, leaf, now, usage, role=Role.COORDINATOR)
        assert facts.dns_names == ("localhost",)


def test_facts_say_what_the_certificate_says(pki, now, site, day):
    _, leaf = pki.leaf()
    facts = facts_of(join_bundle([leaf, pki.issuer.certificate]))
    assert facts == facts_of(leaf) == check(pki, leaf, now)
    assert facts.identity == site
    assert facts.serial == f"{leaf.serial_number:040x}"
    assert facts.fingerprint == f"sha256:{leaf.fingerprint(hashes.SHA256()).hex()}" == fingerprint(leaf)
    assert facts.not_before == now - timedelta(minutes=5)
    assert facts.not_after == now + 90 * day
    assert now + 59 * day < facts.renew_after < now + 60 * day


def test_leaves_say_what_rfc_5280_wants(pki):
    _, leaf = pki.leaf()
    extensions = leaf.extensions
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert basic.critical
    assert not basic.value.ca
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    above = pki.issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    identifier = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert identifier.key_identifier == above.digest
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    path = pki.issuer.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert path.critical
    assert path.value == x509.BasicConstraints(ca=True, path_length=0)


def test_serial_numbers_are_random(pki):
    assert len({serial_of(pki.leaf()[1]) for _ in range(8)}) == 8


def test_an_expired_certificate_says_renew(pki, now, day):
    _, leaf = pki.leaf()
    with pytest.raises(ExpiredError, match="renew it"):
        check(pki, leaf, now + 91 * day)


def test_a_certificate_from_the_future_says_check_the_clock(pki, now, day):
    _, leaf = pki.leaf()
    check(pki, leaf, now - timedelta(minutes=4))
    with pytest.raises(NotYetValidError, match="NTP"):
        check(pki, leaf, now - day)


def test_an_expired_issuer_or_root_is_named(pki, now, day):
    _, leaf = pki.leaf(now=now + 700 * day)
    assert facts_of(leaf).not_after == pki.issuer.certificate.not_valid_after_utc
    key = keys.make_tls_key()
    late = issue(pki.issuer, facts_of(leaf).identity, key.public_key(), now=now)
    with pytest.raises(ExpiredError):
        check(pki, late, now + 731 * day)
    with pytest.raises(ExpiredError, match="authority's own certificate expired"):
        pki.leaf(now=now + 731 * day)


def test_a_foreign_authority_of_the_same_name_is_refused(pki, foreign, now):
    _, leaf = foreign.leaf()
    for intermediates in ([foreign.issuer.certificate], [pki.issuer.certificate], [], [foreign.root.certificate]):
        with pytest.raises(UnknownAuthorityError, match="compare the root's fingerprint"):
            verify_chain(leaf, intermediates, pki.root.certificate, now=now, usage=Usage.CLIENT)


def test_intermediates_that_lead_nowhere_do_no_harm(pki, foreign, now):
    _, leaf = pki.leaf()
    intermediates = [foreign.issuer.certificate, foreign.root.certificate, pki.issuer.certificate]
    facts = verify_chain(leaf, intermediates, pki.root.certificate, now=now, usage=Usage.CLIENT)
    assert facts == facts_of(leaf)


def test_a_site_cannot_act_as_an_authority(pki, now):
    key, leaf = pki.leaf()
    victim = Identity(consortium="brain.example", role=Role.ADMIN, id="boss")
    forged = issue(Authority(key=key, certificate=leaf), victim, keys.make_tls_key().public_key(), now=now)
    with pytest.raises(CertificateError):
        verify_chain(forged, [leaf, pki.issuer.certificate], pki.root.certificate, now=now, usage=Usage.CLIENT)


def test_an_issuer_cannot_make_another_issuer(pki, now):
    key = keys.make_tls_key()
    coordinator = Identity(consortium="brain.example", role=Role.COORDINATOR, id="second")
    certificate = certify_issuer(pki.issuer, verify_request(make_request(coordinator, key)), now=now)
    second = Authority(key=key, certificate=certificate)
    client = keys.make_tls_key().public_key()
    leaf = issue(second, Identity(consortium="brain.example", role=Role.SITE, id="a"), client, now=now)
    with pytest.raises(CertificateError, match="not acceptable"):
        verify_chain(leaf, [certificate, pki.issuer.certificate], pki.root.certificate, now=now, usage=Usage.CLIENT)


def test_a_wrong_role_is_named(pki, now):
    _, leaf = pki.leaf(Role.SITE)
    with pytest.raises(WrongRoleError, match="for the role site, and admin is needed"):
        check(pki, leaf, now, role=Role.ADMIN)


def test_a_leaf_of_another_consortium_is_refused_even_from_our_issuer(pki, build_pki, now):
    other = build_pki("heart.example")
    disguised = Authority(key=pki.issuer.key, certificate=other.issuer.certificate)
    key = keys.make_tls_key()
    identity = Identity(consortium="heart.example", role=Role.SITE, id="a")
    ours = x509.CertificateBuilder().issuer_name(pki.issuer.certificate.subject)
    template = issue(disguised, identity, key.public_key(), now=now)
    builder = ours.subject_name(template.subject).public_key(key.public_key()).serial_number(7)
    builder = builder.not_valid_before(template.not_valid_before_utc).not_valid_after(template.not_valid_after_utc)
    for extension in template.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    with pytest.raises(WrongRoleError, match="not for the consortium"):
        check(pki, builder.sign(pki.issuer.key, hashes.SHA256()), now)


def test_revoked_certificates_are_refused(pki, now):
    _, leaf = pki.leaf()
    check(pki, leaf, now, revoked={"00"})
    with pytest.raises(RevokedError, match="revoked"):
        check(pki, leaf, now, revoked={serial_of(leaf)})
    with pytest.raises(RevokedError):
        check(pki, leaf, now, revoked=frozenset({serial_of(pki.issuer.certificate)}))
    refuse_revoked("aa", {"bb"})


def test_an_issuer_certifies_its_own_consortium_only(pki, now):
    stranger = Identity(consortium="heart.example", role=Role.SITE, id="a")
    with pytest.raises(CertificateError, match="cannot certify"):
        issue(pki.issuer, stranger, keys.make_tls_key().public_key(), now=now)


def test_clients_get_no_host_names(pki):
    with pytest.raises(CertificateError, match="gets no host names"):
        pki.leaf(Role.SITE, dns_names=("coordinator.brain.example",))
    with pytest.raises(CertificateError, match="gets no host names"):
        pki.leaf(Role.ADMIN, ip_addresses=(IPv4Address("10.0.0.1"),))


def test_other_curves_own_keys_and_empty_lifetimes_are_refused(pki, site, now):
    with pytest.raises(CertificateError, match="P-256"):
        issue(pki.issuer, site, ec.generate_private_key(ec.SECP384R1()).public_key(), now=now)
    with pytest.raises(CertificateError, match="own key"):
        issue(pki.issuer, site, pki.issuer.key.public_key(), now=now)
    with pytest.raises(CertificateError, match="not positive"):
        pki.leaf(lifetime=timedelta(0))
    with pytest.raises(IdentityError):
        make_root("Not A Name", now=now)


@pytest.mark.parametrize(("consortium", "role"), [("brain.example", Role.SITE), ("heart.example", Role.COORDINATOR)])
def test_the_root_certifies_coordinators_of_its_consortium_only(pki, now, consortium, role):
    asked = Identity(consortium=consortium, role=role, id="x")
    with pytest.raises(CertificateError, match="cannot be an issuer"):
        certify_issuer(pki.root, verify_request(make_request(asked, keys.make_tls_key())), now=now)


def test_bundles_are_split_in_order_and_within_limits(pki):
    _, leaf = pki.leaf()
    bundle = [leaf, pki.issuer.certificate]
    assert split_bundle(join_bundle(bundle)) == bundle
    for pem, problem in [
        (b"", "not in PEM form"),
        (b"junk", "not in PEM form"),
        (join_bundle([leaf] * 9), "more than 8"),
        (join_bundle([leaf]) + b"\n" * 70_000, "larger than"),
    ]:
        with pytest.raises(CertificateError, match=problem):
            split_bundle(pem)


def test_secrets_stay_out_of_representations(pki):
    assert "key=" not in repr(pki.issuer)


def test_the_pin_fixes_root_and_membership_key(pki, foreign):
    trust = Trust(root=pki.root.certificate, membership_key=bytes(32))
    assert verify_trust(trust.root_pem, bytes(32), pin=trust.pin) == trust
    for root, key in [(foreign.root.certificate, bytes(32)), (pki.root.certificate, bytes([1]) * 32)]:
        with pytest.raises(UnknownAuthorityError, match="call the operator"):
            verify_trust(join_bundle([root]), key, pin=trust.pin)
    with pytest.raises(CertificateError, match="instead of one"):
        verify_trust(trust.root_pem * 2, bytes(32), pin=trust.pin)
    with pytest.raises(CertificateError, match="31 bytes"):
        verify_trust(trust.root_pem, bytes(31), pin=trust.pin)
