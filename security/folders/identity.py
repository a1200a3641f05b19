"""A party's folder: its keys, its certificate and what it trusts (SPEC 8.3).

    identity.toml  identity.key  trust/root.pem  trust/membership.pub
    tls/000001/{tls.key,tls.csr,tls.pem}  tls/000002/...  tls/current -> 000002

Each certificate lies in a generation of its own, beside its key; the link `current` turns to a new generation in one
step, so key and certificate always belong together, whenever the power fails. A request that was made but not answered
is made again byte by byte, so that an enrolment can be retried.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from security import files, keys, strict_json
from security.errors import CertificateError, KeyFileError
from security.folders import description
from security.identity import Identity, Role
from security.pki.certificates import (
    MAX_BUNDLE_BYTES,
    CertificateFacts,
    Usage,
    facts_of,
    join_bundle,
    split_bundle,
    verify_chain,
)
from security.pki.requests import MAX_REQUEST_BYTES, make_request, verify_request
from security.pki.trust import Trust, verify_trust


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedIdentity:
    """All that a party needs to speak for itself.

    Attributes:
        identity: Who it is.
        tls_key: P-256 key of the certificate.
        chain_pem: Certificate, then issuer; without the root.
        facts: What the certificate says.
        identity_key: Ed25519 key for protocol messages.
        trust: The anchors.
    """

    identity: Identity
    tls_key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain_pem: bytes = field(repr=False)
    facts: CertificateFacts
    identity_key: Ed25519PrivateKey = field(repr=False)
    trust: Trust

    @property
    def tls_key_pem(self) -> bytes:
        """The TLS key as TLS libraries take it: unencrypted; never write it to a log."""
        return keys.private_pem(self.tls_key)


@dataclass(frozen=True, slots=True)
class IdentityFolder:
    """The folder of a coordinator, site, administrator or auditor."""

    path: Path

    def init(self, identity: Identity, trust: Trust, *, passphrase: bytes | None, now: datetime) -> None:
        """Make the folder and the identity key, whole or not at all.

        Raises:
            KeyFileError: If there is something already, or the passphrase is too short.
            CertificateError: If the identity is of another consortium than the anchors.
        """
        if identity.consortium != trust.consortium:
            raise CertificateError(f"{identity} is not of the consortium {trust.consortium}")
        with files.new_folder(self.path) as folder:
            keys.write_private_key(folder / "identity.key", keys.make_signing_key(), passphrase)
            (folder / "tls").mkdir(mode=0o700)
            (folder / "trust").mkdir(mode=0o700)
            files.write_new(folder / "trust" / "root.pem", trust.root_pem, files.PUBLIC)
            membership_key = trust.membership_key.hex().encode() + b"\n"
            files.write_new(folder / "trust" / "membership.pub", membership_key, files.PUBLIC)
            values = {"identity": identity.uri, "pin": trust.pin, "created": strict_json.written(now)}
            description.write(folder / "identity.toml", values)

    @property
    def exists(self) -> bool:
        """Whether `init` has been here."""
        return (self.path / "identity.toml").exists()

    @property
    def has_certificate(self) -> bool:
        """Whether a certificate was installed."""
        return (self.path / "tls" / "current").exists()

    def read_identity(self) -> Identity:
        """Return whose folder this is.

        Raises:
            KeyFileError, IdentityError: If identity.toml is missing or damaged.
        """
        return Identity.parse(description.read(self.path / "identity.toml", "identity")["identity"])

    def read_trust(self) -> Trust:
        """Return the anchors.

        Raises:
            KeyFileError: If a file is missing or open to others' changes.
            UnknownAuthorityError: If they are not those that were pinned at enrolment.
        """
        root_pem = files.read_public(self.path / "trust" / "root.pem", MAX_BUNDLE_BYTES)
        membership_key = description.read_key(self.path / "trust" / "membership.pub")
        return verify_trust(root_pem, membership_key, pin=description.read(self.path / "identity.toml", "pin")["pin"])

    def read_identity_key(self, passphrase: bytes | None) -> Ed25519PrivateKey:
        """Return the key that signs protocol messages, and proves the identity when enrolling.

        Raises:
            KeyFileError: If it is missing, damaged or open to others, or the passphrase is wrong.
        """
        return keys.read_signing_key(self.path / "identity.key", passphrase)

    def request_certificate(
        self,
        *,
        passphrase: bytes | None,
        dns_names: tuple[str, ...] = (),
        ip_addresses: tuple[IPv4Address | IPv6Address, ...] = (),
    ) -> bytes:
        """Make a TLS key and a request for its certificate; if one is still open, return that one.

        Raises:
            KeyFileError: If the folder cannot be written.
        """
        pending = self._pending()
        if not pending.exists():
            key = keys.make_tls_key()
            with files.new_folder(pending) as folder:
                keys.write_private_key(folder / "tls.key", key, passphrase)
                request = make_request(self.read_identity(), key, dns_names, ip_addresses)
                files.write_new(folder / "tls.csr", request, files.PUBLIC)
        return files.read_public(pending / "tls.csr", MAX_REQUEST_BYTES)

    def discard_request(self) -> None:
        """Forget an open request, so that the next one is made with a new key."""
        shutil.rmtree(self._pending(), ignore_errors=True)

    def install_certificate(self, chain_pem: bytes, *, now: datetime) -> CertificateFacts:
        """Check the answer to the open request and use it from now on.

        Args:
            chain_pem: Certificate, then issuer.
            now: The time.

        Raises:
            KeyFileError: If no request is open.
            CertificateError: If the certificate is not to be believed, or is for another key or identity.
        """
        pending, identity = self._pending(), self.read_identity()
        request = verify_request(files.read_public(pending / "tls.csr", MAX_REQUEST_BYTES))
        leaf, *intermediates = split_bundle(chain_pem)
        usage = Usage.SERVER if identity.role is Role.COORDINATOR else Usage.CLIENT
        facts = verify_chain(leaf, intermediates, self.read_trust().root, now=now, usage=usage, role=identity.role)
        if facts.identity != identity or leaf.public_key() != request.public_key:
            raise CertificateError(f"the certificate is for another key or identity ({facts.identity}, not {identity})")
        files.replace(pending / "tls.pem", join_bundle([leaf, *intermediates]), files.PUBLIC)
        files.replace_link(self.path / "tls" / "current", pending.name)
        self._prune()
        return facts

    def load(self, passphrase: bytes | None) -> LoadedIdentity:
        """Return keys, certificate and anchors; whether the certificate is in its time is not checked here.

        Raises:
            KeyFileError: If a file or folder is missing, damaged or open to others, or the passphrase is wrong.
            SecurityError: If what lies there does not belong together.
        """
        for folder in (self.path, self.path / "tls", self.path / "trust"):
            files.check_folder(folder)
        generation = self._generation()
        if generation == 0:
            raise KeyFileError(f"{self.path} holds no certificate yet", remedy="enrol first")
        current = self._folder(generation)  # resolved once: key and certificate of the same generation
        tls_key = keys.read_tls_key(current / "tls.key", passphrase)
        chain = split_bundle(files.read_public(current / "tls.pem", MAX_BUNDLE_BYTES))
        facts, identity = facts_of(chain[0]), self.read_identity()
        if chain[0].public_key() != tls_key.public_key() or facts.identity != identity:
            raise KeyFileError(
                f"{current}: key, certificate and identity do not belong together", remedy="restore it or enrol again"
            )
        return LoadedIdentity(
            identity=identity,
            tls_key=tls_key,
            chain_pem=join_bundle(chain),
            facts=facts,
            identity_key=self.read_identity_key(passphrase),
            trust=self.read_trust(),
        )

    def _generation(self) -> int:
        """Return the number of the generation in use; 0 if there is none yet."""
        link = self.path / "tls" / "current"
        if not link.is_symlink():
            return 0
        target = link.readlink().name
        if not target.isdecimal():
            raise KeyFileError(f"{link} does not point to a certificate", remedy="restore it or enrol again")
        return int(target)

    def _folder(self, generation: int) -> Path:
        return self.path / "tls" / f"{generation:06d}"

    def _pending(self) -> Path:
        return self._folder(self._generation() + 1)

    def _prune(self) -> None:
        """Delete generations older than the one before the current; somebody may be reading that one."""
        for generation in range(1, self._generation() - 1):
            shutil.rmtree(self._folder(generation), ignore_errors=True)
