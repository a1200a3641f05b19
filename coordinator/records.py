"""What the coordinator keeps in its database, as plain data. Times are seconds since the epoch (UTC)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from protos.terms import ArtefactRef, Phase, ReportReply, RoundId


class TokenState(StrEnum):
    """What became of an enrolment token."""

    OPEN = "open"
    AWAITING = "awaiting approval"
    USED = "used"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentRequest:
    """What a newcomer sent with its token; verified before it is kept."""

    certificate_request_pem: bytes
    identity_public_key: bytes
    modalities: tuple[str, ...]
    software: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """A one-time enrolment token; the secret itself is not kept."""

    token_id: str
    secret_sha256: bytes = field(repr=False)
    role: str
    member_id: str
    modalities: tuple[str, ...]
    approval: bool
    created: float
    expires: float
    state: TokenState = TokenState.OPEN
    request: EnrolmentRequest | None = None
    certificate_chain_pem: bytes | None = None


class MemberState(StrEnum):
    """Whether a member may connect."""

    ENROLLED = "enrolled"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRow:
    """Somebody with a certificate. Whether a site may join rounds is the signed membership list's business."""

    role: str
    member_id: str
    modalities: tuple[str, ...]
    identity_public_key: bytes
    state: MemberState
    software: str
    enrolled: float
    serial: str
    certificate_expires: float
    last_seen: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """A run; `state` is the JSON of `coordinator.state.RunState`, the other columns are for queries."""

    run: str
    name: str
    method: str
    created: float
    ended: float | None
    status: str
    configuration_toml: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRow:
    """A round's attempt; `detail` is the JSON of `coordinator.state.RoundState`, empty once retention removed it."""

    round: RoundId
    phase: Phase
    began: float
    ended: float | None
    reason: str
    detail: str

    @property
    def pruned(self) -> bool:
        """Whether the details were removed by retention."""
        return not self.detail


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """A published version of the global model, and whose updates are in it."""

    run: str
    round_number: int
    model: ArtefactRef
    created: float
    contributors: tuple[str, ...]
    missing: tuple[str, ...]
    kept: bool = True
    promoted: float | None = None  # when it became the one that hospitals should use; at most one in a run


@dataclass(frozen=True, slots=True, kw_only=True)
class LastReport:
    """A site's last numbered report and the answer to it."""

    sequence: int
    body_sha256: bytes
    reply: ReportReply


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One record of the hash-chained audit log (`security.audit`)."""

    sequence: int
    at: float
    actor: str
    action: str
    subject: str
    outcome: str
    details: dict[str, str]
    previous: bytes
    hash: bytes
