"""Translation between the coordinator's records and rows of its tables; total in both directions."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import RowMapping

from coordinator.records import (
    AuditRow,
    EnrolmentRequest,
    LastReport,
    MemberRow,
    MemberState,
    ModelRow,
    RoundRow,
    RunRow,
    TokenRow,
    TokenState,
)
from protos.terms import ArtefactRef, Phase, ReportReply, RoundId

Row = RowMapping


def from_token(token: TokenRow) -> dict[str, Any]:
    """Return a token as a row."""
    request = token.request
    return {
        "token_id": token.token_id,
        "secret_sha256": token.secret_sha256,
        "role": token.role,
        "member_id": token.member_id,
        "modalities": _texts(token.modalities),
        "approval": token.approval,
        "created": token.created,
        "expires": token.expires,
        "state": token.state.value,
        "request_pem": None if request is None else request.certificate_request_pem,
        "request_public_key": None if request is None else request.identity_public_key,
        "request_modalities": None if request is None else _texts(request.modalities),
        "request_software": None if request is None else request.software,
        "certificate_chain_pem": token.certificate_chain_pem,
    }


def to_token(row: Row) -> TokenRow:
    """Return a row as a token."""
    plain = _pick(row, "token_id", "secret_sha256", "role", "member_id", "approval", "created", "expires")
    return TokenRow(
        **plain,
        modalities=_tuple(row["modalities"]),
        state=TokenState(row["state"]),
        request=None if row["request_pem"] is None else _to_request(row),
        certificate_chain_pem=row["certificate_chain_pem"],
    )


def _to_request(row: Row) -> EnrolmentRequest:
    return EnrolmentRequest(
        certificate_request_pem=row["request_pem"],
        identity_public_key=row["request_public_key"],
        modalities=_tuple(row["request_modalities"]),
        software=row["request_software"],
    )


_MEMBER = (
    "role",
    "member_id",
    "identity_public_key",
    "software",
    "enrolled",
    "serial",
    "certificate_expires",
    "last_seen",
    "reason",
)


def from_member(member: MemberRow) -> dict[str, Any]:
    """Return a member as a row."""
    plain = {name: getattr(member, name) for name in _MEMBER}
    return {**plain, "modalities": _texts(member.modalities), "state": member.state.value}


def to_member(row: Row) -> MemberRow:
    """Return a row as a member."""
    return MemberRow(**_pick(row, *_MEMBER), modalities=_tuple(row["modalities"]), state=MemberState(row["state"]))


_RUN = ("run", "name", "method", "created", "ended", "status", "configuration_toml", "state")


def from_run(run: RunRow) -> dict[str, Any]:
    """Return a run as a row."""
    return {name: getattr(run, name) for name in _RUN}


def to_run(row: Row) -> RunRow:
    """Return a row as a run."""
    return RunRow(**_pick(row, *_RUN))


def from_round_id(round_id: RoundId) -> dict[str, Any]:
    """Return the columns that name a round's attempt."""
    return {"run": round_id.run, "round_number": round_id.round_number, "attempt": round_id.attempt}


_ROUND = ("began", "ended", "reason", "detail")


def from_round(record: RoundRow) -> dict[str, Any]:
    """Return a round's attempt as a row."""
    plain = {name: getattr(record, name) for name in _ROUND}
    return {**from_round_id(record.round), **plain, "phase": int(record.phase)}


def to_round(row: Row) -> RoundRow:
    """Return a row as a round's attempt."""
    round_id = RoundId(**_pick(row, "run", "round_number", "attempt"))
    return RoundRow(round=round_id, phase=Phase(row["phase"]), **_pick(row, *_ROUND))


_MODEL = ("run", "round_number", "created", "kept", "promoted")


def from_model(model: ModelRow) -> dict[str, Any]:
    """Return a model as a row."""
    return {
        **{name: getattr(model, name) for name in _MODEL},
        "model_sha256": model.model.sha256,
        "model_size": model.model.size,
        "contributors": _texts(model.contributors),
        "missing": _texts(model.missing),
    }


def to_model(row: Row) -> ModelRow:
    """Return a row as a model."""
    return ModelRow(
        **_pick(row, *_MODEL),
        model=ArtefactRef(sha256=row["model_sha256"], size=row["model_size"]),
        contributors=_tuple(row["contributors"]),
        missing=_tuple(row["missing"]),
    )


def from_report(site: str, report: LastReport) -> dict[str, Any]:
    """Return a site's last report as a row."""
    return {
        "site": site,
        "sequence": report.sequence,
        "body_sha256": report.body_sha256,
        "reply_sequence": report.reply.sequence,
        "reply_in_round": report.reply.in_round,
        "reply_message": report.reply.message,
    }


def to_report(row: Row) -> LastReport:
    """Return a row as a site's last report."""
    reply = ReportReply(sequence=row["reply_sequence"], in_round=row["reply_in_round"], message=row["reply_message"])
    return LastReport(sequence=row["sequence"], body_sha256=row["body_sha256"], reply=reply)


_AUDIT = ("sequence", "at", "actor", "action", "subject", "outcome", "previous", "hash")


def from_audit(record: AuditRow) -> dict[str, Any]:
    """Return an audit record as a row."""
    return {**{name: getattr(record, name) for name in _AUDIT}, "details": json.dumps(record.details)}


def to_audit(row: Row) -> AuditRow:
    """Return a row as an audit record."""
    return AuditRow(**_pick(row, *_AUDIT), details=json.loads(row["details"]))


def _pick(row: Row, *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _texts(values: tuple[str, ...]) -> str:
    return json.dumps(values)


def _tuple(texts: str) -> tuple[str, ...]:
    return tuple(json.loads(texts))
