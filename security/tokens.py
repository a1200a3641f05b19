"""One-time enrolment tokens: one string to paste, shown once (SPEC 6).

The string names the token, proves that its bearer was given it, and pins the consortium's root and membership key. The
record that the coordinator keeps holds only a hash of the secret, which has 160 random bits: guessing is hopeless, and
a stolen record enrols nobody. Marking a token as used, in one transaction with the enrolment, is the keeper's task.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime

from security.encoding import digest, text
from security.errors import ExpiredTokenError, TokenError, UsedTokenError, WrongTokenError
from security.identity import Identity

_TEXT = re.compile(r"fedmepd1\.([0-9a-f]{16})\.([a-z2-7]{32})\.([0-9a-f]{64})", re.ASCII)
_PIN = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ID_BYTES = 8
_SECRET_BYTES = 20
_NEW_ONE = "ask the operator for a new token: fedmepd-admin tokens create"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentToken:
    """What the bearer holds.

    Attributes:
        id: 16 hexadecimal digits; not secret.
        secret: 32 base32 characters.
        pin: Fixes root and membership key, 64 hexadecimal digits; see `pki.trust`.
    """

    id: str
    secret: str = field(repr=False)
    pin: str

    @property
    def text(self) -> str:
        """The string to paste (SPEC 6.1); never write it to a log."""
        return f"fedmepd1.{self.id}.{self.secret}.{self.pin}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """What the coordinator keeps.

    Attributes:
        id: 16 hexadecimal digits.
        secret_hash: Of the secret, 32 bytes (SPEC 6.2).
        identity: Who may enrol with it.
        expires_at: Until when, exclusive.
    """

    id: str
    secret_hash: bytes = field(repr=False)
    identity: Identity
    expires_at: datetime


def mint(identity: Identity, *, pin: str, expires_at: datetime) -> tuple[EnrolmentToken, TokenRecord]:
    """Make a token for one party.

    Args:
        identity: Who may enrol with it.
        pin: `Trust.pin` of the consortium.
        expires_at: Until when it can be used; aware.

    Raises:
        TokenError: If the pin is malformed or the expiry has no time zone.
    """
    if not _PIN.fullmatch(pin):
        raise TokenError("the pin of a token is not 64 hexadecimal digits")
    if expires_at.utcoffset() is None:
        raise TokenError("the expiry of a token has no time zone")
    token_id = secrets.token_hex(_ID_BYTES)
    secret = base64.b32encode(secrets.token_bytes(_SECRET_BYTES)).decode().lower()
    token = EnrolmentToken(id=token_id, secret=secret, pin=pin)
    return token, TokenRecord(id=token_id, secret_hash=_hash(token), identity=identity, expires_at=expires_at)


def parse(unverified_text: str) -> EnrolmentToken:
    """Return the token that was pasted, white space around it aside.

    Raises:
        WrongTokenError: If it is not a token; the error does not repeat the text.
    """
    match = _TEXT.fullmatch(unverified_text.strip())
    if match is None:
        raise WrongTokenError(
            "the text is not an enrolment token", remedy="copy all of it, from fedmepd1 to the last character"
        )
    token_id, secret, pin = match.groups()
    return EnrolmentToken(id=token_id, secret=secret, pin=pin)


def check(
    record: TokenRecord, unverified_token: EnrolmentToken, *, identity: Identity, now: datetime, used: bool
) -> None:
    """Check that a token entitles its bearer to enrol (SPEC 6.3).

    Whoever lacks the secret learns nothing but that it is wrong.

    Args:
        record: What the coordinator keeps under the token's id.
        unverified_token: What the bearer sent.
        identity: Who the bearer asks to be.
        now: The time.
        used: Whether the token has served before.

    Raises:
        WrongTokenError: If the secret is wrong, or the token is another party's.
        UsedTokenError: If it has served its single use.
        ExpiredTokenError: If its time is over.
    """
    is_known = hmac.compare_digest(record.secret_hash, _hash(unverified_token))
    if not is_known or record.id != unverified_token.id:
        raise WrongTokenError("the enrolment token is not known", remedy=_NEW_ONE)
    if record.identity != identity:
        raise WrongTokenError(
            f"the enrolment token is for {record.identity}, not for {identity}",
            remedy=f"enrol with that id and role, or {_NEW_ONE}",
        )
    if used:
        raise UsedTokenError(
            "the enrolment token was used already",
            remedy=f"if that was not you, tell the operator at once; otherwise {_NEW_ONE}",
        )
    if now >= record.expires_at:
        raise ExpiredTokenError(f"the enrolment token expired at {record.expires_at.isoformat()}", remedy=_NEW_ONE)


def _hash(token: EnrolmentToken) -> bytes:
    return digest("fedmepd/token", 1, text(token.id), text(token.secret))
