"""Messages of the steps of secure aggregation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NAME = sa.String(255)


def upgrade() -> None:
    """Add the table of step messages."""
    op.create_table(
        "step_messages",
        sa.Column("run", _NAME, sa.ForeignKey("runs.run"), primary_key=True),
        sa.Column("round_number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("site", _NAME, primary_key=True),
        sa.Column("step", _NAME, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
