"""Visits to a served status page: who shows what, links by command, and what a cut connection looks like."""

from __future__ import annotations

import socket

from coordinator.status_page.door import Visitor as Somebody
from security.folders import IdentityFolder, LoadedIdentity
from security.identity import Identity, Role
from tests.coordinator.registry_at_hand import NOW
from tests.coordinator.served import CONSORTIUM, Served
from tests.coordinator.status_at_hand import Visitor

YEAR_S = 365 * 86_400.0


def somebody(name: str = "eve", *, not_after: float = NOW + YEAR_S) -> Somebody:
    """Return an auditor who has a certificate."""
    identity = Identity(consortium=CONSORTIUM, role=Role.AUDITOR, id=name)
    return Somebody(identity=identity, serial=name.encode().hex().rjust(40, "e"), not_after=not_after)


def loaded(fed: Served, name: str = "alice") -> LoadedIdentity:
    return IdentityFolder(fed.folder / name).load(None)


def visitor(fed: Served, certificate: LoadedIdentity | None = None, **options: object) -> Visitor:
    trust = fed.credentials.loaded.trust
    return Visitor(fed.page.address, trust.root_pem, fed.folder, certificate, **options)  # type: ignore[arg-type]


def link_of(fed: Served, *words: str, who: str = "alice") -> str:
    said = fed.admin("status-page", "link", *words, who=who)
    assert said.code == 0, said.err
    return said.out.strip()


def connect(fed: Served, own: str = "127.0.0.1") -> socket.socket:
    """Connect without saying anything, from one of the host's own addresses."""
    host, _, port = fed.page.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20, source_address=(own, 0))


def ended(connection: socket.socket) -> bool:
    """Whether the other end hangs up without a word of HTTP."""
    try:
        return not connection.recv(10).startswith(b"HTTP")
    except ConnectionResetError:
        return True
