"""Who may call what: the table is total, and everybody else is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from coordinator.auth import OPEN, ROLES, Guard, Peer
from coordinator.errors import ForbiddenError, UnauthenticatedError
from protos.v1 import admin_pb2, enrolment_pb2, federation_pb2
from security.identity import Identity, Role

SERVICES = [
    service
    for module in (admin_pb2, enrolment_pb2, federation_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
METHODS = {f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods}


def peer(role: Role, consortium: str = "demo") -> Peer:
    return Peer(
        identity=Identity(consortium=consortium, role=role, id="x"),
        serial="5",
        expires=datetime.max.replace(tzinfo=UTC),
    )


def test_every_method_has_its_roles_and_no_other_is_named() -> None:
    assert set(ROLES) | OPEN == METHODS
    assert not set(ROLES) & OPEN


def test_only_enrolment_is_open() -> None:
    assert {method.split("/")[1] for method in OPEN} == {"fedmepd.v1.Enrolment"}


@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_call_what_the_table_says_and_nothing_else(role: Role) -> None:
    guard = Guard("demo", lambda serial: False)
    for method in sorted(METHODS - OPEN):
        if role in ROLES[method]:
            guard.check(peer(role), method)
        else:
            with pytest.raises(ForbiddenError, match=f"{role.value}.*may not call"):
                guard.check(peer(role), method)


def test_auditors_change_nothing_and_operators_do_not_enrol() -> None:
    changing = ("Create", "Revoke", "Approve", "Publish", "Start", "Control", "Promote")
    for method, roles in ROLES.items():
        name = method.rpartition("/")[2]
        if name == "CreateStatusLink":
            continue  # opens for its caller what he may read anyway
        if name.startswith(changing):
            assert Role.AUDITOR not in roles
        if name.startswith(("Create", "Revoke", "Approve", "Publish")):
            assert roles == {Role.ADMIN}


def test_a_method_without_an_entry_is_refused() -> None:
    with pytest.raises(ForbiddenError):
        Guard("demo", lambda serial: False).check(peer(Role.ADMIN), "/fedmepd.v1.Admin/New")


def test_a_revoked_certificate_is_refused_at_once() -> None:
    revoked: set[str] = set()
    guard = Guard("demo", revoked.__contains__)
    method = "/fedmepd.v1.Federation/Next"
    guard.check(peer(Role.SITE), method)
    revoked.add("5")
    with pytest.raises(UnauthenticatedError, match="revoked"):
        guard.check(peer(Role.SITE), method)


def test_a_connection_does_not_outlive_its_certificate() -> None:
    method, expiry = "/fedmepd.v1.Federation/Next", datetime.max.replace(tzinfo=UTC)
    with pytest.raises(UnauthenticatedError, match="expired"):
        Guard("demo", lambda serial: False, now=lambda: expiry).check(peer(Role.SITE), method)


def test_another_consortium_is_refused() -> None:
    with pytest.raises(UnauthenticatedError, match="another consortium"):
        Guard("demo", lambda serial: False).check(peer(Role.SITE, "other"), "/fedmepd.v1.Federation/Next")
