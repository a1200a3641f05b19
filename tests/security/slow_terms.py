"""What secure aggregation is written in, as SPEC 1, 5, 9 and 12 have it: slow, obvious, and independent of `security`.

Encoding, membership list, setting, primitives by their RFCs, secret sharing. HKDF, counter mode and Lagrange are
spelled out; X25519, Ed25519 and the AES block are the library's. The steps stand in `slow_secagg`. It takes no care of
secrets in memory, of time or of speed.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

P = 2**256 + 297
SHARE_BYTES = 33


class Violation(Exception):  # noqa: N818 - the specification's word
    """A clause does not hold."""

    def __init__(self, clause: str, what: str) -> None:
        super().__init__(f"SPEC {clause}: {what}")
        self.clause = clause


def require(holds: bool, clause: str, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Raise unless `holds`."""
    if not holds:
        raise Violation(clause, what)


# SPEC 1: encoding


def frame(label: str, version: int, *parts: bytes | str) -> bytes:
    """SPEC 1.1; texts as in 1.4."""
    raw = [part.encode() if isinstance(part, str) else part for part in parts]
    head = integer(len(label)) + label.encode("ascii") + struct.pack(">I", version) + integer(len(raw))
    return head + b"".join(integer(len(part)) + part for part in raw)


def integer(number: int) -> bytes:
    """SPEC 1.2."""
    return struct.pack(">Q", number)


def instant(moment: datetime) -> bytes:
    """SPEC 1.3."""
    return integer((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))


def digest(label: str, version: int, *parts: bytes | str) -> bytes:
    """SPEC 1.5."""
    return hashlib.sha256(frame(label, version, *parts)).digest()


# SPEC 5: membership list


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A site on the list (SPEC 5.1)."""

    site: str
    identity_key: bytes
    valid_from: datetime
    valid_until: datetime
    modalities: tuple[str, ...]

    def encode(self) -> bytes:
        """SPEC 5.1."""
        span = instant(self.valid_from), instant(self.valid_until)
        return frame("fedmepd/member", 1, self.site, self.identity_key, *span, *sorted(self.modalities))


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """The list (SPEC 5.2), members by site."""

    consortium: str
    version: int
    issued_at: datetime
    minimum_cohort: int
    members: dict[str, Member]

    def encode(self) -> bytes:
        """SPEC 5.2."""
        head = self.consortium, integer(self.version), instant(self.issued_at), integer(self.minimum_cohort)
        return frame("fedmepd/membership", 2, *head, *(self.members[site].encode() for site in sorted(self.members)))

    def digest(self) -> bytes:
        """SPEC 5.3."""
        return digest("fedmepd/membership-digest", 1, self.encode())

    def has(self, site: str, segment: str) -> bool:
        """Whether a site is a member of a segment (SPEC 9.1); a site that is not on the list is an error (10.10)."""
        return segment == "common" or segment in {f"modality/{m}" for m in self.members[site].modalities}


# SPEC 9: terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """SPEC 9.1."""

    name: str
    values: int
    least_open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a round is about (SPEC 9.2); quantisation in pairs of clip and scale, broadcast of name and SHA-256."""

    membership: Membership
    run: str
    round: int
    attempt: int
    run_spec_sha256: bytes
    layout_digest: bytes
    quantisation: tuple[tuple[float, float], ...]
    roster: tuple[str, ...]
    segments: tuple[Segment, ...]
    broadcast: tuple[tuple[str, bytes], ...]
    previous: tuple[str, ...]

    def encode(self) -> bytes:
        """SPEC 9.2."""
        listed = self.membership
        classes = [struct.pack(">d", clip) + struct.pack(">d", scale) for clip, scale in self.quantisation]
        sites = [frame("fedmepd/secagg-site", 1, s, *sorted(listed.members[s].modalities)) for s in sorted(self.roster)]
        segments = [
            frame("fedmepd/secagg-segment", 1, g.name, integer(g.values), integer(g.least_open)) for g in self.segments
        ]
        artefacts = [part for name, sha256 in self.broadcast for part in (name, sha256)]
        return frame(
            "fedmepd/secagg-setting",
            1,
            listed.consortium,
            self.run,
            integer(self.round),
            integer(self.attempt),
            integer(listed.version),
            listed.digest(),
            self.run_spec_sha256,
            self.layout_digest,
            frame("fedmepd/secagg-quantisation", 1, *classes),
            frame("fedmepd/secagg-roster", 1, *sites),
            frame("fedmepd/secagg-segments", 1, *segments),
            frame("fedmepd/secagg-broadcast", 1, *artefacts),
            frame("fedmepd/secagg-previous", 1, *sorted(self.previous)),
        )

    def ctx0(self) -> bytes:
        """SPEC 9.3."""
        return hashlib.sha256(self.encode()).digest()


def threshold(n: int) -> int:
    """SPEC 9.4."""
    return 2 * n // 3 + 1


# Primitives


def hkdf(ikm: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF with SHA-256 (RFC 5869, 2.2 and 2.3)."""
    prk = hmac.digest(salt or bytes(32), ikm, "sha256")
    block, output, count = b"", b"", 0
    while len(output) < length:
        count += 1
        block = hmac.digest(prk, block + info + bytes([count]), "sha256")
        output += block
    return output[:length]


def aes_ctr(key: bytes, counter: int, length: int) -> bytes:
    """The key stream of AES-256 in counter mode from a counter block on (NIST SP 800-38A, 6.5)."""
    block = Cipher(AES256(key), ECB()).encryptor()
    count = -(-length // 16)
    stream = b"".join(block.update(((counter + i) % 2**128).to_bytes(16, "big")) for i in range(count))
    return stream[:length]


def prg(key: bytes, values: int) -> list[int]:
    """SPEC 10.7."""
    return list(struct.unpack(f"<{values}I", aes_ctr(key, 0, 4 * values)))


def x25519(private: bytes, public: bytes) -> bytes:
    """RFC 7748."""
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def x25519_public(private: bytes) -> bytes:
    """RFC 7748."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def low_order(public: bytes) -> bool:
    """Whether X25519 with a key is zero, whatever the private key (SPEC 10.3): scalars are multiples of 8."""
    try:
        x25519(bytes([1]) * 32, public)
    except ValueError:
        return True
    return False


def signed_by(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature holds (RFC 8032)."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


# SPEC 12: secret sharing


def shamir_share(secret: bytes, coefficients: list[int], x: int) -> bytes:
    """SPEC 12.1; coefficients c1 to c(t-1)."""
    terms = [int.from_bytes(secret, "big"), *coefficients]
    return (sum(term * x**power for power, term in enumerate(terms)) % P).to_bytes(SHARE_BYTES, "big")


def shamir_recover(shares: dict[int, bytes]) -> bytes:
    """SPEC 12.2; exactly t shares by x."""
    require(all(well_formed(share) for share in shares.values()), "12.2", "a share is malformed")
    secret = 0
    for x, share in shares.items():
        above = below = 1
        for other in shares:
            if other != x:
                above = above * other % P
                below = below * (other - x) % P
        secret += int.from_bytes(share, "big") * above * pow(below, -1, P)
    require(secret % P < 2**256, "12.2", "what the shares give is not a secret")
    return (secret % P).to_bytes(32, "big")


def well_formed(share: bytes) -> bool:
    """SPEC 12.1 and 12.2."""
    return len(share) == SHARE_BYTES and int.from_bytes(share, "big") < P
