"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NAME = sa.String(255)
_DIGEST = sa.String(64)


def upgrade() -> None:
    """Bring the schema here from an empty database."""
    _members()
    _runs()
    _inputs()
    _audit()


def _members() -> None:
    op.create_table(
        "tokens",
        sa.Column("token_id", _NAME, primary_key=True),
        sa.Column("secret_sha256", sa.LargeBinary, nullable=False),
        sa.Column("role", _NAME, nullable=False),
        sa.Column("member_id", _NAME, nullable=False),
        sa.Column("modalities", sa.Text, nullable=False),
        sa.Column("approval", sa.Boolean, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("state", _NAME, nullable=False),
        sa.Column("request_pem", sa.LargeBinary),
        sa.Column("request_public_key", sa.LargeBinary),
        sa.Column("request_modalities", sa.Text),
        sa.Column("request_software", sa.Text),
        sa.Column("certificate_chain_pem", sa.LargeBinary),
    )
    op.create_table(
        "members",
        sa.Column("role", _NAME, primary_key=True),
        sa.Column("member_id", _NAME, primary_key=True),
        sa.Column("modalities", sa.Text, nullable=False),
        sa.Column("identity_public_key", sa.LargeBinary, nullable=False),
        sa.Column("state", _NAME, nullable=False),
        sa.Column("software", sa.Text, nullable=False),
        sa.Column("enrolled", sa.Double, nullable=False),
        sa.Column("serial", _NAME, nullable=False),
        sa.Column("certificate_expires", sa.Double, nullable=False),
        sa.Column("last_seen", sa.Double, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "revoked_serials",
        sa.Column("serial", _NAME, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_table(
        "memberships",
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("signed_list", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("run", _NAME, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("method", _NAME, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("ended", sa.Double),
        sa.Column("status", _NAME, nullable=False),
        sa.Column("configuration_toml", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_table(
        "rounds",
        sa.Column("run", _NAME, sa.ForeignKey("runs.run"), primary_key=True),
        sa.Column("round_number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("began", sa.Double, nullable=False),
        sa.Column("ended", sa.Double),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_table(
        "models",
        sa.Column("run", _NAME, sa.ForeignKey("runs.run"), primary_key=True),
        sa.Column("round_number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("model_sha256", _DIGEST, nullable=False),
        sa.Column("model_size", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("contributors", sa.Text, nullable=False),
        sa.Column("missing", sa.Text, nullable=False),
        sa.Column("kept", sa.Boolean, nullable=False),
    )


def _inputs() -> None:
    op.create_table(
        "last_reports",
        sa.Column("site", _NAME, primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("body_sha256", sa.LargeBinary, nullable=False),
        sa.Column("reply_sequence", sa.BigInteger, nullable=False),
        sa.Column("reply_in_round", sa.Boolean, nullable=False),
        sa.Column("reply_message", sa.Text, nullable=False),
    )
    op.create_table(
        "inputs",
        sa.Column("run", _NAME, sa.ForeignKey("runs.run"), primary_key=True),
        sa.Column("round_number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("site", _NAME, primary_key=True),
        sa.Column("vector_sha256", _DIGEST, nullable=False),
        sa.Column("vector_size", sa.BigInteger, nullable=False),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("previous", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
