"""Who somebody is: consortium, role and id, written as a SPIFFE URI (SPEC 2).

The URI stands in a certificate's subject alternative name. The common name is for people and is never trusted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Self

from security.errors import IdentityError

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_CONSORTIUM = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_URI = re.compile(r"spiffe://([^/]{1,63})/([a-z]{1,16})/([^/]{1,63})", re.ASCII)
_LONGEST_CONSORTIUM = 63


class Role(Enum):
    """What somebody may be in a consortium."""

    COORDINATOR = "coordinator"
    SITE = "site"
    ADMIN = "admin"
    OPERATOR = "operator"
    AUDITOR = "auditor"


def check_consortium(name: str) -> None:
    """Check that a name can be a consortium's (SPEC 2.1).

    Raises:
        IdentityError: If it cannot.
    """
    if len(name) > _LONGEST_CONSORTIUM or not _CONSORTIUM.fullmatch(name) or name.rsplit(".", 1)[-1].isdigit():
        raise IdentityError(
            f"{name!r} is not a consortium name",
            remedy="use a name like brain.example.org: lowercase letters, digits, hyphens and dots, 63 at most",
        )


def check_id(name: str) -> None:
    """Check that a name can be a party's id (SPEC 2.2).

    Raises:
        IdentityError: If it cannot.
    """
    if not _ID.fullmatch(name):
        raise IdentityError(
            f"{name!r} is not an id",
            remedy="start with a letter or digit, go on with letters, digits, dots, underscores or hyphens, 63 at most",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One party of one consortium.

    Attributes:
        consortium: DNS-like name, lowercase.
        role: What the party may be.
        id: Name within the role, like `hospital-a`.

    Raises:
        IdentityError: If consortium or id is malformed.
    """

    consortium: str
    role: Role
    id: str

    def __post_init__(self) -> None:
        check_consortium(self.consortium)
        check_id(self.id)

    @property
    def uri(self) -> str:
        """The identity as a URI (SPEC 2.3)."""
        return f"spiffe://{self.consortium}/{self.role.value}/{self.id}"

    def __str__(self) -> str:
        return self.uri

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Return the identity that a URI names; exactly one URI names each.

        Raises:
            IdentityError: If the URI is not of the form spiffe://<consortium>/<role>/<id>.
        """
        match = _URI.fullmatch(uri)
        if match is None:
            raise IdentityError(f"{uri[:200]!r} is not an identity of the form spiffe://<consortium>/<role>/<id>")
        consortium, role, name = match.groups()
        try:
            return cls(consortium=consortium, role=Role(role), id=name)
        except ValueError:
            known = ", ".join(known.value for known in Role)
            raise IdentityError(f"{role!r} is not a role", remedy=f"roles are {known}") from None
