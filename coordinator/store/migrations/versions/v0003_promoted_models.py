"""Which version of a run's model hospitals should use."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the time of the promotion; no model has been promoted yet."""
    op.add_column("models", sa.Column("promoted", sa.Double))
