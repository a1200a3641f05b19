"""A site's enrolment: nothing the server says is believed before it matches the token's pin (PROTOCOL 3.2, SPEC 4.6).

First a connection that trusts only the certificate just seen; over it the root and the membership key, which the token
pins; then the seen certificate must lead to that root and be a coordinator's; only then, over a connection that trusts
the root, the token is shown. Keys are made here, never overwritten and never sent. Interrupted at any point, it can be
repeated with the same token and goes on with the same keys.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc

from fedmepd import __version__
from protos import codec
from protos.v1 import enrolment_pb2 as messages
from protos.v1.enrolment_pb2_grpc import EnrolmentStub
from security import keys
from security.errors import SecurityError
from security.folders import IdentityFolder
from security.identity import Identity, Role
from security.pki.certificates import CertificateFacts, Usage, split_bundle, verify_chain
from security.pki.requests import prove_identity
from security.pki.trust import Trust, verify_trust
from security.tokens import EnrolmentToken
from site_agent import faults
from site_agent.audit import AuditLog, Outcome
from site_agent.config import Config
from site_agent.errors import EnrolmentError, RemoteError, StorageError, UnreachableError
from site_agent.identity import FOLDER
from site_agent.tls import options, served_leaf

SOFTWARE = f"fedmepd-agent {__version__}"
_CALL_S = 30.0
_LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """Who enrols, and how.

    Attributes:
        config: The agent's configuration.
        site: The id that the token is for.
        token: The token.
        passphrase: Seals the keys; None leaves them to the file system.
        waiting: Told how many seconds pass before asking again whether an admin has approved.
        sleep: Pauses.
        now: The time.
    """

    config: Config
    site: str
    token: EnrolmentToken
    passphrase: bytes | None = field(default=None, repr=False)
    waiting: Callable[[float], None]
    sleep: Callable[[float], None]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


def enrolled(data: Path) -> Identity | None:
    """Return who is enrolled in a folder, if anybody."""
    folder = IdentityFolder(data / FOLDER)
    return folder.read_identity() if folder.has_certificate else None


def enrol(newcomer: Newcomer) -> CertificateFacts:
    """Enrol, and leave an identity folder that can connect.

    Raises:
        EnrolmentError: If the folder is another site's, or the coordinator refuses.
        StorageError: If the folder or its audit log cannot be written.
        RemoteError: If the coordinator cannot be reached.
        SecurityError: If it is not the one that the token pins, or the folder cannot be used.
    """
    folder = IdentityFolder(newcomer.config.data / FOLDER)
    make_private(newcomer.config.data)
    trust = verified_trust(newcomer)
    identity = _prepare(folder, newcomer, trust)
    with AuditLog(newcomer.config.data, identity.uri, lambda: newcomer.now().timestamp()) as audit:
        told = {"token": newcomer.token.id, "pin": trust.pin, "coordinator": newcomer.config.enrolment_address}
        try:
            chain = _exchange(newcomer, trust, _request(folder, newcomer))
            facts = folder.install_certificate(chain, now=newcomer.now())
        except (EnrolmentError, SecurityError) as error:
            outcome: Outcome = "refused" if isinstance(error, EnrolmentError) else "failed"
            audit.note("site.enrolled", identity.uri, outcome, reason=error.problem, **told)
            raise
        expires = facts.not_after.isoformat()
        audit.note("site.enrolled", identity.uri, "accepted", serial=facts.serial, expires=expires, **told)
    return facts


def verified_trust(newcomer: Newcomer) -> Trust:
    """Return the anchors that a coordinator serves, once they match the pin and it is certified by them.

    Raises:
        SecurityError: If it is not the pinned consortium's coordinator.
        RemoteError: If it cannot be reached.
    """
    address = newcomer.config.enrolment_address
    leaf = ssl.DER_cert_to_PEM_cert(served_leaf(address, newcomer.config.proxy_for(address))).encode()
    request = messages.DescribeRequest(hello=codec.encode_hello(codec.Hello(software=SOFTWARE)))
    with _service(newcomer.config, leaf) as service:
        described = codec.decode_description(service.Describe(request, timeout=_CALL_S))
    trust = verify_trust(described.root, described.membership_key, pin=newcomer.token.pin)
    verify_chain(
        split_bundle(leaf)[0],
        split_bundle(described.issuer),
        trust.root,
        now=newcomer.now(),
        usage=Usage.SERVER,
        role=Role.COORDINATOR,
    )
    return trust


def make_private(data: Path) -> None:
    """Make the agent's folder, for its user alone.

    Raises:
        StorageError: If it cannot be made.
    """
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        data.chmod(0o700)
    except OSError as error:
        raise StorageError(
            f"{data} cannot be made ({error.strerror})", remedy="name a folder that this user may write"
        ) from error


def _prepare(folder: IdentityFolder, newcomer: Newcomer, trust: Trust) -> Identity:
    """Make the keys, unless an interrupted enrolment has made them; return whose they are."""
    identity = Identity(consortium=trust.consortium, role=Role.SITE, id=newcomer.site)
    if not folder.exists:
        folder.init(identity, trust, passphrase=newcomer.passphrase, now=newcomer.now())
    elif folder.read_identity() != identity or folder.read_trust().pin != trust.pin:
        raise EnrolmentError(
            f"{folder.path} was begun for {folder.read_identity()}",
            remedy="name another agent.data; keys are never overwritten",
        )
    return identity


def _request(folder: IdentityFolder, newcomer: Newcomer) -> messages.EnrolRequest:
    request = folder.request_certificate(passphrase=newcomer.passphrase)
    key = folder.read_identity_key(newcomer.passphrase)
    return codec.encode_enrol(
        codec.Enrol(
            token_id=newcomer.token.id,
            token_secret=newcomer.token.secret,
            certificate_request=request,
            identity_key=keys.public_bytes(key),
            identity_proof=prove_identity(key, request, newcomer.token.id),
            modalities=newcomer.config.cohort.modalities,
            software=SOFTWARE,
        )
    )


def _exchange(newcomer: Newcomer, trust: Trust, request: messages.EnrolRequest) -> bytes:
    """Show the token, again and again while an admin has to approve; return the certificate chain."""
    while True:
        with _service(newcomer.config, trust.root_pem) as service:
            outcome = codec.decode_enrolment(service.Enrol(request, timeout=_CALL_S))
        if isinstance(outcome, codec.Enrolled):
            return outcome.chain
        pause = min(max(outcome.retry_after_s, 1.0), _LONGEST_PAUSE_S)
        newcomer.waiting(pause)
        newcomer.sleep(pause)


@contextmanager
def _service(config: Config, anchor_pem: bytes) -> Iterator[EnrolmentStub]:
    """Open a channel without a certificate that trusts one anchor: a root, or a leaf that was seen."""
    address = config.enrolment_address
    proxy = config.proxy_for(address)
    credentials = grpc.ssl_channel_credentials(anchor_pem)
    try:
        with (
            faults.remote(address, proxy),
            grpc.secure_channel(address, credentials, options=options(proxy)) as channel,
        ):
            yield EnrolmentStub(channel)
    except UnreachableError:
        raise
    except RemoteError as error:
        raise EnrolmentError(error.problem, remedy=error.remedy) from error
