"""Enrolment as a newcomer sees it: nothing the server says is believed before it matches the token's pin.

First a connection that trusts only the certificate just seen; over it the root, whose fingerprint the token pins; then
the seen certificate must lead to that root and be a coordinator's; only then, over a connection that trusts the root,
the token is shown. Keys are made here and stay here. Interrupted at any point, it can be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from coordinator.admin_channel import ask, newcomer_channel, served_leaf
from coordinator.cli.admin.connection import Addresses, write_addresses
from coordinator.errors import ConflictError
from fedmepd import __version__
from protos.terms import PROTOCOL
from protos.v1 import common_pb2 as common
from protos.v1 import enrolment_pb2 as messages
from protos.v1.enrolment_pb2_grpc import EnrolmentStub
from security import keys
from security.folders import IdentityFolder
from security.identity import Identity, Role
from security.pki.certificates import CertificateFacts, Usage, split_bundle, verify_chain
from security.pki.requests import prove_identity
from security.pki.trust import Trust, verify_trust
from security.tokens import EnrolmentToken

SOFTWARE = f"fedmepd-admin {__version__}"
_LONGEST_PAUSE_S = 60.0


def enrol(
    path: Path,
    token: EnrolmentToken,
    who: tuple[Role, str],
    addresses: Addresses,
    *,
    passphrase: bytes | None,
    waiting: Callable[[float], None],
) -> CertificateFacts:
    """Enrol and leave an identity folder that can connect.

    Args:
        path: The folder; one whose enrolment was interrupted is continued.
        token: What the admin handed over.
        who: Role and id that the token is for.
        addresses: Where the coordinator is.
        passphrase: Seals the keys; None leaves them to the file system.
        waiting: Told how many seconds pass before asking again whether an admin has approved.

    Raises:
        ConflictError: If the folder is enrolled, or is another party's.
        CoordinatorError: If the coordinator cannot be reached, or refuses.
        SecurityError: If it is not the one that the token pins, or the folder cannot be used.
    """
    folder = IdentityFolder(path)
    if folder.has_certificate:
        raise ConflictError(f"{path} holds an identity already", remedy="use it, or name another folder: --identity")
    trust = verified_trust(addresses.newcomers, token.pin)
    identity = Identity(consortium=trust.consortium, role=who[0], id=who[1])
    _prepare(folder, identity, trust, passphrase)
    request = _request(folder, token, passphrase)
    chain = _exchange(addresses.newcomers, trust, request, waiting)
    facts = folder.install_certificate(chain, now=datetime.now(UTC))
    write_addresses(path, addresses)
    return facts


def verified_trust(address: str, pin: str) -> Trust:
    """Return the anchors that a coordinator serves, once they match a pin and it has shown to be certified by them.

    Raises:
        SecurityError: If it is not the pinned consortium's coordinator.
        CoordinatorError: If it cannot be reached.
    """
    leaf = served_leaf(address)
    hello = common.HelloRequest(oldest_protocol=PROTOCOL, newest_protocol=PROTOCOL, software=SOFTWARE)
    with newcomer_channel(address, leaf) as channel:
        reply = ask(EnrolmentStub(channel).Describe, messages.DescribeRequest(hello=hello))
    trust = verify_trust(reply.root_pem, reply.membership_public_key, pin=pin)
    verify_chain(
        split_bundle(leaf)[0],
        split_bundle(reply.issuer_pem),
        trust.root,
        now=datetime.now(UTC),
        usage=Usage.SERVER,
        role=Role.COORDINATOR,
    )
    return trust


def _prepare(folder: IdentityFolder, identity: Identity, trust: Trust, passphrase: bytes | None) -> None:
    if not folder.exists:
        folder.init(identity, trust, passphrase=passphrase, now=datetime.now(UTC))
    elif folder.read_identity() != identity or folder.read_trust().pin != trust.pin:
        raise ConflictError(
            f"{folder.path} was begun for {folder.read_identity()}", remedy="name another folder: --identity"
        )


def _request(folder: IdentityFolder, token: EnrolmentToken, passphrase: bytes | None) -> messages.EnrolRequest:
    request = folder.request_certificate(passphrase=passphrase)
    key = folder.read_identity_key(passphrase)
    return messages.EnrolRequest(
        token_id=token.id,
        token_secret=token.secret,
        certificate_request_pem=request,
        identity_public_key=keys.public_bytes(key),
        identity_proof=prove_identity(key, request, token.id),
        software=SOFTWARE,
    )


def _exchange(address: str, trust: Trust, request: messages.EnrolRequest, waiting: Callable[[float], None]) -> bytes:
    """Show the token, again and again while an admin has to approve; return the certificate chain."""
    while True:
        with newcomer_channel(address, trust.root_pem) as channel:
            reply = ask(EnrolmentStub(channel).Enrol, request)
        if reply.WhichOneof("outcome") == "enrolled":
            return reply.enrolled.certificate_chain_pem
        pause = min(max(reply.awaiting_approval.retry_after_s, 1.0), _LONGEST_PAUSE_S)
        waiting(pause)
        time.sleep(pause)
