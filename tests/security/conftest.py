"""A small consortium: a root, an issuer, and certificates for each role."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest
from cryptography import x509

from security import keys, sealed
from security.identity import Identity, Role
from security.pki.authority import Authority, certify_issuer, issue, make_root
from security.pki.requests import make_request, verify_request

NOW = datetime(2030, 1, 15, 12, 0, tzinfo=UTC)
CONSORTIUM = "brain.example"


@dataclass(frozen=True)
class Pki:
    root: Authority
    issuer: Authority

    def leaf(self, role=Role.SITE, name="a", now=NOW, **options) -> tuple[object, x509.Certificate]:
        key = keys.make_tls_key()
        identity = Identity(consortium=self.root.consortium, role=role, id=name)
        return key, issue(self.issuer, identity, key.public_key(), now=now, **options)

    def server(self):
        return self.leaf(
            Role.COORDINATOR, "central", dns_names=("localhost",), ip_addresses=(IPv4Address("127.0.0.1"),)
        )


def build(consortium=CONSORTIUM, now=NOW) -> Pki:
    root = make_root(consortium, now=now)
    key = keys.make_tls_key()
    coordinator = Identity(consortium=consortium, role=Role.COORDINATOR, id="central")
    request = verify_request(make_request(coordinator, key))
    return Pki(root=root, issuer=Authority(key=key, certificate=certify_issuer(root, request, now=now)))


@pytest.fixture(autouse=True)
def _cheap_passphrases(monkeypatch):
    monkeypatch.setattr(sealed, "_LOG2_COST", 10)


@pytest.fixture
def now():
    return NOW


@pytest.fixture(scope="session")
def pki():
    return build()


@pytest.fixture(scope="session")
def foreign():
    """Another consortium that chose the same name."""
    return build()


@pytest.fixture(scope="session")
def build_pki():
    return build


@pytest.fixture
def site():
    return Identity(consortium=CONSORTIUM, role=Role.SITE, id="a")


@pytest.fixture
def day():
    return timedelta(days=1)
