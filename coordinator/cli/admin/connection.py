"""From an identity folder to a connected service: addresses, certificate, and its renewal when it is due."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from coordinator.admin_channel import ask, member_channel
from coordinator.cli.passphrases import key_passphrase
from coordinator.errors import ConfigError, CoordinatorError
from protos.v1 import common_pb2 as common
from protos.v1.admin_pb2_grpc import AdminStub
from security import files
from security.errors import ExpiredError, SecurityError
from security.folders import IdentityFolder, LoadedIdentity

MEMBERS_PORT = 8443
NEWCOMERS_PORT = 8444
_FILE_NAME = "coordinator.json"
_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the coordinator is: for members, and for newcomers."""

    members: str
    newcomers: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A connected service, and who we are to it."""

    stub: AdminStub
    loaded: LoadedIdentity
    address: str


def addresses_of(coordinator: str, enrolment: str | None) -> Addresses:
    """Return the addresses that a person gave, with the usual ports where there are none.

    Raises:
        ConfigError: If one is not HOST or HOST:PORT.
    """
    members = with_port(coordinator, MEMBERS_PORT)
    host = members.rpartition(":")[0]
    return Addresses(members=members, newcomers=with_port(enrolment or host, NEWCOMERS_PORT))


def write_addresses(identity: Path, addresses: Addresses) -> None:
    """Keep the addresses beside the keys."""
    document = {"members": addresses.members, "newcomers": addresses.newcomers}
    files.replace(identity / _FILE_NAME, json.dumps(document).encode() + b"\n", files.PUBLIC)


def read_addresses(identity: Path) -> Addresses:
    """Return the addresses.

    Raises:
        ConfigError: If they are missing.
    """
    try:
        found = json.loads(files.read_public(identity / _FILE_NAME, _MOST_BYTES))
        return Addresses(members=found["members"], newcomers=found["newcomers"])
    except (ValueError, KeyError, TypeError, SecurityError) as error:
        raise ConfigError(
            f"{identity} does not say where the coordinator is",
            remedy="enrol: fedmepd-admin enroll ID --coordinator HOST --token TOKEN; or name another --identity",
        ) from error


@contextmanager
def connected(identity: Path) -> Iterator[Connection]:
    """Connect to the coordinator, with a renewed certificate if that is due.

    Raises:
        ConfigError: If there is no identity in the folder.
        SecurityError: If it cannot be used.
        CoordinatorError: If the coordinator cannot be reached, or refuses.
    """
    folder, address = IdentityFolder(identity), read_addresses(identity).members
    loaded = _fresh(folder, address)
    with member_channel(address, loaded) as channel:
        yield Connection(stub=AdminStub(channel), loaded=loaded, address=address)


def _fresh(folder: IdentityFolder, address: str) -> LoadedIdentity:
    """Return the identity, renewed at two thirds of its certificate's lifetime if the coordinator can be reached."""
    passphrase, now = key_passphrase(), datetime.now(UTC)
    loaded = folder.load(passphrase)
    if now >= loaded.facts.not_after:
        raise ExpiredError(
            f"your certificate expired at {loaded.facts.not_after:%Y-%m-%d %H:%M} UTC",
            remedy="ask an admin for a token with --replace and enrol into a new folder",
        )
    if now < loaded.facts.renew_after:
        return loaded
    with suppress(CoordinatorError, SecurityError):  # the old one still serves; the next command tries again
        request = folder.request_certificate(passphrase=passphrase)
        with member_channel(address, loaded) as channel:
            reply = ask(AdminStub(channel).Renew, common.RenewRequest(certificate_request_pem=request))
        folder.install_certificate(reply.certificate_chain_pem, now=now)
    return folder.load(passphrase)


def with_port(text: str, port: int) -> str:
    """Return an address with a port.

    Raises:
        ConfigError: If it is not HOST or HOST:PORT.
    """
    host, colon, given = text.rpartition(":")
    if text.endswith("]") or not colon or (":" in host and not host.endswith("]")):
        host, given = text, ""
    if not host or (given and not given.isdecimal()):
        raise ConfigError(f"{text!r} is not an address", remedy="write HOST or HOST:PORT")
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{host}:{given or port}"
