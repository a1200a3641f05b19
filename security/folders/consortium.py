"""The consortium's own folder: root key and membership key (SPEC 8.1). It belongs offline, never on the coordinator.

A folder is made once, whole or not at all. Making it again is refused: a new root would lock every site out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from security import files, keys, strict_json
from security.errors import KeyFileError
from security.folders import description
from security.pki.authority import ISSUER_LIFETIME, ROOT_LIFETIME, Authority, certify_issuer, make_root
from security.pki.certificates import MAX_BUNDLE_BYTES, fingerprint, split_bundle
from security.pki.requests import verify_request
from security.pki.trust import Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class Consortium:
    """An opened folder: both keys.

    Attributes:
        root: The root, which certifies issuers.
        membership_key: Signs membership lists.
    """

    root: Authority
    membership_key: Ed25519PrivateKey = field(repr=False)

    @property
    def trust(self) -> Trust:
        """The anchors that everybody pins."""
        return Trust(root=self.root.certificate, membership_key=keys.public_bytes(self.membership_key))

    def certify_issuer(
        self, unverified_request_pem: bytes, *, now: datetime, lifetime: timedelta = ISSUER_LIFETIME
    ) -> x509.Certificate:
        """Certify a coordinator's issuing key from its request; see `IssuerFolder.init`.

        Raises:
            CertificateError: If the request is malformed or not a coordinator's of this consortium.
        """
        return certify_issuer(self.root, verify_request(unverified_request_pem), now=now, lifetime=lifetime)


@dataclass(frozen=True, slots=True)
class ConsortiumFolder:
    """A folder with root.key, root.pem, membership.key, membership.pub and consortium.toml."""

    path: Path

    def init(
        self, consortium: str, *, passphrase: bytes, now: datetime, lifetime: timedelta = ROOT_LIFETIME
    ) -> Consortium:
        """Make root and membership key.

        Args:
            consortium: Its name, like brain.example.org.
            passphrase: Seals both keys; at least 12 bytes.
            now: The time.
            lifetime: Of the root.

        Raises:
            KeyFileError: If there is a consortium already, or the passphrase is too short.
            IdentityError: If the name cannot be a consortium's.
        """
        self._refuse_existing()
        root = make_root(consortium, now=now, lifetime=lifetime)
        made = Consortium(root=root, membership_key=keys.make_signing_key())
        with files.new_folder(self.path) as folder:
            keys.write_private_key(folder / "root.key", root.key, passphrase)
            keys.write_private_key(folder / "membership.key", made.membership_key, passphrase)
            files.write_new(folder / "root.pem", made.trust.root_pem, files.PUBLIC)
            files.write_new(folder / "membership.pub", _public_line(made.trust), files.PUBLIC)
            values = _described(made.trust) | {"created": strict_json.written(now)}
            description.write(folder / "consortium.toml", values)
        return made

    def read_trust(self) -> Trust:
        """Return the public part; needs no passphrase.

        Raises:
            KeyFileError: If a file is missing, damaged, or not the one that consortium.toml names.
        """
        files.check_folder(self.path)
        roots = split_bundle(files.read_public(self.path / "root.pem", MAX_BUNDLE_BYTES))
        trust = Trust(root=roots[0], membership_key=description.read_key(self.path / "membership.pub"))
        said, found = description.read(self.path / "consortium.toml", *_described(trust)), _described(trust)
        for name, value in found.items():
            if said[name] != value:
                raise KeyFileError(
                    f"{self.path} is inconsistent: consortium.toml says {name} = {said[name]}, the files say {value}",
                    remedy="restore the folder from a backup",
                )
        return trust

    def open(self, passphrase: bytes) -> Consortium:
        """Return both keys.

        Raises:
            KeyFileError: If a file is missing, damaged or open to others, or the passphrase is wrong.
        """
        trust = self.read_trust()
        root_key = keys.read_tls_key(self.path / "root.key", passphrase)
        membership_key = keys.read_signing_key(self.path / "membership.key", passphrase)
        if root_key.public_key() != trust.root.public_key():
            raise KeyFileError(f"{self.path / 'root.key'} is not the key of root.pem", remedy="restore from a backup")
        if keys.public_bytes(membership_key) != trust.membership_key:
            raise KeyFileError(
                f"{self.path / 'membership.key'} is not the key of membership.pub", remedy="restore from a backup"
            )
        return Consortium(root=Authority(key=root_key, certificate=trust.root), membership_key=membership_key)

    def _refuse_existing(self) -> None:
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        raise KeyFileError(
            f"{self.path} is not empty: there may be a consortium in it, and a new root would lock every site out",
            remedy="keep using it; if you want another consortium, name another folder",
        )


def _described(trust: Trust) -> dict[str, str]:
    return {
        "consortium": trust.consortium,
        "root_fingerprint": fingerprint(trust.root),
        "membership_key": trust.membership_key.hex(),
        "pin": trust.pin,
    }


def _public_line(trust: Trust) -> bytes:
    return trust.membership_key.hex().encode() + b"\n"
