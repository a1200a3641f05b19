"""A row that the coordinator writes to see whether the database can be written."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the table of checks."""
    op.create_table(
        "checks",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("padding", sa.LargeBinary, nullable=False),
    )
