"""The tables, as the newest migration leaves them. Lists are JSON texts; times are seconds since the epoch."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()
_NAME = String(255)
_DIGEST = String(64)


def _run() -> Column[str]:
    return Column("run", _NAME, ForeignKey("runs.run"), primary_key=True)


def _number(name: str) -> Column[int]:
    return Column(name, Integer, primary_key=True, autoincrement=False)


tokens = Table(
    "tokens",
    metadata,
    Column("token_id", _NAME, primary_key=True),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("role", _NAME, nullable=False),
    Column("member_id", _NAME, nullable=False),
    Column("modalities", Text, nullable=False),
    Column("approval", Boolean, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("state", _NAME, nullable=False),
    Column("request_pem", LargeBinary),
    Column("request_public_key", LargeBinary),
    Column("request_modalities", Text),
    Column("request_software", Text),
    Column("certificate_chain_pem", LargeBinary),
)

members = Table(
    "members",
    metadata,
    Column("role", _NAME, primary_key=True),
    Column("member_id", _NAME, primary_key=True),
    Column("modalities", Text, nullable=False),
    Column("identity_public_key", LargeBinary, nullable=False),
    Column("state", _NAME, nullable=False),
    Column("software", Text, nullable=False),
    Column("enrolled", Double, nullable=False),
    Column("serial", _NAME, nullable=False),
    Column("certificate_expires", Double, nullable=False),
    Column("last_seen", Double, nullable=False),
    Column("reason", Text, nullable=False),
)

revoked_serials = Table(
    "revoked_serials",
    metadata,
    Column("serial", _NAME, primary_key=True),
    Column("at", Double, nullable=False),
)

memberships = Table(
    "memberships",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("signed_list", LargeBinary, nullable=False),
    Column("at", Double, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("run", _NAME, primary_key=True),
    Column("name", Text, nullable=False),
    Column("method", _NAME, nullable=False),
    Column("created", Double, nullable=False),
    Column("ended", Double),
    Column("status", _NAME, nullable=False),
    Column("configuration_toml", Text, nullable=False),
    Column("state", Text, nullable=False),
)

rounds = Table(
    "rounds",
    metadata,
    _run(),
    _number("round_number"),
    _number("attempt"),
    Column("phase", Integer, nullable=False),
    Column("began", Double, nullable=False),
    Column("ended", Double),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
)

models = Table(
    "models",
    metadata,
    _run(),
    _number("round_number"),
    Column("model_sha256", _DIGEST, nullable=False),
    Column("model_size", BigInteger, nullable=False),
    Column("created", Double, nullable=False),
    Column("contributors", Text, nullable=False),
    Column("missing", Text, nullable=False),
    Column("kept", Boolean, nullable=False),
    Column("promoted", Double),
)

last_reports = Table(
    "last_reports",
    metadata,
    Column("site", _NAME, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("body_sha256", LargeBinary, nullable=False),
    Column("reply_sequence", BigInteger, nullable=False),
    Column("reply_in_round", Boolean, nullable=False),
    Column("reply_message", Text, nullable=False),
)

inputs = Table(
    "inputs",
    metadata,
    _run(),
    _number("round_number"),
    _number("attempt"),
    Column("site", _NAME, primary_key=True),
    Column("vector_sha256", _DIGEST, nullable=False),
    Column("vector_size", BigInteger, nullable=False),
)

step_messages = Table(
    "step_messages",
    metadata,
    _run(),
    _number("round_number"),
    _number("attempt"),
    Column("site", _NAME, primary_key=True),
    Column("step", _NAME, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

checks = Table(
    "checks",
    metadata,
    Column("name", _NAME, primary_key=True),
    Column("at", Double, nullable=False),
    Column("padding", LargeBinary, nullable=False),
)
