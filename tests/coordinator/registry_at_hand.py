"""A consortium, a registry on SQLite, and newcomers with keys of their own, for the tests of the registry."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.records import AuditRow
from coordinator.registry import Attempt, Registry
from coordinator.store import open_store
from coordinator.store.engine import SqlStore
from security import keys, membership, membership_file, tokens
from security.identity import Identity, Role
from security.membership import Member, MembershipList
from security.pki.authority import Authority, certify_issuer, make_root
from security.pki.requests import make_request, prove_identity, verify_request
from security.pki.trust import Trust

NOW = 1_900_000_000.0
CONSORTIUM = "brain.example"
ADMIN = f"spiffe://{CONSORTIUM}/admin/alice"


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Authorities:
    issuer: Authority
    trust: Trust
    membership_key: Ed25519PrivateKey


@cache
def authorities(name: str = CONSORTIUM) -> Authorities:
    now = datetime.fromtimestamp(NOW, UTC)
    root, key, membership_key = make_root(name, now=now), keys.make_tls_key(), keys.make_signing_key()
    asked = verify_request(make_request(Identity(consortium=name, role=Role.COORDINATOR, id="central"), key))
    issuer = Authority(key=key, certificate=certify_issuer(root, asked, now=now))
    trust = Trust(root=root.certificate, membership_key=keys.public_bytes(membership_key))
    return Authorities(issuer=issuer, trust=trust, membership_key=membership_key)


@dataclass
class Newcomer:
    """Somebody who wants in."""

    identity: Identity
    modalities: tuple[str, ...] = ()
    identity_key: Ed25519PrivateKey = field(default_factory=keys.make_signing_key)
    tls_key: EllipticCurvePrivateKey = field(default_factory=keys.make_tls_key)

    def __post_init__(self) -> None:
        self.request = make_request(self.identity, self.tls_key)

    def attempt(self, token: str, **changes: object) -> Attempt:
        parsed = tokens.parse(token)
        made = Attempt(
            token_id=parsed.id,
            token_secret=parsed.secret,
            certificate_request_pem=self.request,
            identity_public_key=keys.public_bytes(self.identity_key),
            identity_proof=prove_identity(self.identity_key, self.request, parsed.id),
            modalities=self.modalities,
            software="test 1",
        )
        return replace(made, **changes)


@dataclass
class Office:
    """A registry and all around it."""

    store: SqlStore
    registry: Registry
    clock: Clock

    def newcomer(self, name: str, *modalities: str, role: Role = Role.SITE) -> Newcomer:
        own = modalities or (("flair",) if role is Role.SITE else ())
        return Newcomer(identity=Identity(consortium=CONSORTIUM, role=role, id=name), modalities=own)

    def token(self, name: str, role: Role = Role.SITE, **options: object) -> str:
        return self.registry.create_token(role, name, actor=ADMIN, **options)[0]

    def enrolled(self, name: str, *modalities: str, role: Role = Role.SITE, **options: object) -> Newcomer:
        who = self.newcomer(name, *modalities, role=role)
        self.registry.enrol(who.attempt(self.token(name, role, **options)))
        return who

    def signed(self, *sites: Newcomer, version: int = 1, **changes: object) -> bytes:
        now = datetime.fromtimestamp(self.clock(), UTC)
        members = tuple(
            Member(
                site=site.identity.id,
                identity_key=keys.public_bytes(site.identity_key),
                modalities=tuple(sorted(site.modalities)),
                valid_from=now,
                valid_until=now + timedelta(days=10),
            )
            for site in sites
        )
        made = MembershipList(consortium=CONSORTIUM, version=version, issued_at=now, members=members)
        made = replace(made, **changes)
        return membership_file.to_json(membership.sign(made, authorities().membership_key))

    def audit(self) -> tuple[AuditRow, ...]:
        with self.store.transaction() as transaction:
            return transaction.audit(after=-1, limit=10_000)


def open_office(folder: Path) -> Office:
    clock, known = Clock(), authorities()
    store = open_store(f"sqlite:///{folder / 'test.db'}")
    return Office(
        store=store, registry=Registry(store, issuer=known.issuer, trust=known.trust, clock=clock), clock=clock
    )
