"""Enrolment, renewal and the membership list: bounds on what `security` then verifies (PROTOCOL 6).

Nothing here is trusted because it was decoded: certificates, proofs and lists are byte strings of a sound size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from protos.codec.checks import (
    KEY_BYTES,
    MAX_MODALITIES,
    SIGNATURE_BYTES,
    at_most,
    chosen,
    counted,
    distinct,
    exactly,
    name,
    pem,
    present,
    quantity,
    quoted,
    refuse,
)
from protos.codec.greetings import Welcome, decode_welcome, encode_welcome, software
from protos.v1 import common_pb2 as common
from protos.v1 import enrolment_pb2 as enrolment

MAX_LIST_BYTES = 1 << 20
_TOKEN_ID = re.compile(r"[0-9a-f]{16}")
_TOKEN_SECRET = re.compile(r"[a-z2-7]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrol:
    """A newcomer's request.

    Attributes:
        token_id: 16 hexadecimal digits.
        token_secret: 32 base32 characters.
        certificate_request: PEM.
        identity_key: Ed25519 public key, 32 bytes.
        identity_proof: Ed25519 signature, 64 bytes.
        modalities: What a site owns; empty for other roles.
        software: Name and release.
    """

    token_id: str
    token_secret: str = field(repr=False)
    certificate_request: bytes
    identity_key: bytes
    identity_proof: bytes
    modalities: tuple[str, ...]
    software: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a newcomer compares with its token's pin before it trusts anything.

    Attributes:
        welcome: What the coordinator says it is.
        root: Certificate of the root, PEM.
        issuer: Certificate of the issuer, PEM.
        membership_key: Ed25519 public key, 32 bytes.
    """

    welcome: Welcome
    root: bytes
    issuer: bytes
    membership_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """The certificate chain, leaf first, PEM."""

    chain: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitingApproval:
    """An admin must approve first; the same request may be repeated after so many seconds."""

    retry_after_s: float


Enrolment = Enrolled | AwaitingApproval


def encode_enrol(request: Enrol) -> enrolment.EnrolRequest:
    """Return the message of a newcomer's request."""
    return enrolment.EnrolRequest(
        token_id=request.token_id,
        token_secret=request.token_secret,
        certificate_request_pem=request.certificate_request,
        identity_public_key=request.identity_key,
        identity_proof=request.identity_proof,
        modalities=request.modalities,
        software=request.software,
    )


def decode_enrol(message: enrolment.EnrolRequest) -> Enrol:
    """Return a newcomer's request; the error never repeats the secret.

    Raises:
        MalformedMessageError: Naming the field.
    """
    where = "EnrolRequest"
    if not _TOKEN_ID.fullmatch(message.token_id):
        refuse(f"{where}.token_id", f"{quoted(message.token_id)}, wanted 16 hexadecimal digits")
    if not _TOKEN_SECRET.fullmatch(message.token_secret):
        refuse(f"{where}.token_secret", "not 32 of the characters a-z and 2-7")
    counted(message.modalities, f"{where}.modalities", most=MAX_MODALITIES)
    modalities = tuple(name(value, f"{where}.modalities[{i}]") for i, value in enumerate(message.modalities))
    distinct(modalities, f"{where}.modalities")
    return Enrol(
        token_id=message.token_id,
        token_secret=message.token_secret,
        certificate_request=pem(message.certificate_request_pem, f"{where}.certificate_request_pem"),
        identity_key=exactly(message.identity_public_key, f"{where}.identity_public_key", KEY_BYTES),
        identity_proof=exactly(message.identity_proof, f"{where}.identity_proof", SIGNATURE_BYTES),
        modalities=modalities,
        software=software(message.software, f"{where}.software"),
    )


def encode_enrolment(outcome: Enrolment) -> enrolment.EnrolReply:
    """Return the message that says what came of a request."""
    if isinstance(outcome, Enrolled):
        return enrolment.EnrolReply(enrolled=enrolment.Enrolled(certificate_chain_pem=outcome.chain))
    return enrolment.EnrolReply(awaiting_approval=enrolment.AwaitingApproval(retry_after_s=outcome.retry_after_s))


def decode_enrolment(message: enrolment.EnrolReply) -> Enrolment:
    """Return what came of a request.

    Raises:
        MalformedMessageError: Naming the field.
    """
    if chosen(message, "outcome", "EnrolReply") == "enrolled":
        return Enrolled(chain=pem(message.enrolled.certificate_chain_pem, "Enrolled.certificate_chain_pem"))
    wait = message.awaiting_approval.retry_after_s
    return AwaitingApproval(retry_after_s=quantity(wait, "AwaitingApproval.retry_after_s"))


def encode_description(described: Description) -> enrolment.DescribeReply:
    """Return the message that describes a consortium."""
    return enrolment.DescribeReply(
        hello=encode_welcome(described.welcome),
        root_pem=described.root,
        issuer_pem=described.issuer,
        membership_public_key=described.membership_key,
    )


def decode_description(message: enrolment.DescribeReply) -> Description:
    """Return the description of a consortium.

    Raises:
        MalformedMessageError: Naming the field.
        VersionError: If the coordinator speaks another version.
    """
    where = "DescribeReply"
    present(message, "hello", where)
    return Description(
        welcome=decode_welcome(message.hello, f"{where}.hello"),
        root=pem(message.root_pem, f"{where}.root_pem"),
        issuer=pem(message.issuer_pem, f"{where}.issuer_pem"),
        membership_key=exactly(message.membership_public_key, f"{where}.membership_public_key", KEY_BYTES),
    )


def decode_renew(message: common.RenewRequest) -> bytes:
    """Return the certificate request of a renewal, PEM.

    Raises:
        MalformedMessageError: If it cannot be one.
    """
    return pem(message.certificate_request_pem, "RenewRequest.certificate_request_pem")


def decode_renewed(message: common.RenewReply) -> bytes:
    """Return the certificate chain of a renewal, leaf first, PEM.

    Raises:
        MalformedMessageError: If it cannot be one.
    """
    return pem(message.certificate_chain_pem, "RenewReply.certificate_chain_pem")


def decode_membership(message: common.MembershipReply) -> bytes | None:
    """Return the signed list, unverified; None before the first one.

    Raises:
        MalformedMessageError: If it is too long.
    """
    return at_most(message.signed_list, "MembershipReply.signed_list", MAX_LIST_BYTES) or None
