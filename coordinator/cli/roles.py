"""The roles that somebody can enrol for, as choices on the command line."""

from __future__ import annotations

from enum import StrEnum


class MemberRole(StrEnum):
    """Everybody but coordinators."""

    SITE = "site"
    ADMIN = "admin"
    OPERATOR = "operator"
    AUDITOR = "auditor"


class PersonRole(StrEnum):
    """Who uses `fedmepd-admin`."""

    ADMIN = "admin"
    OPERATOR = "operator"
    AUDITOR = "auditor"
