"""What Alembic runs for every migration: on the connection, and in the transaction, that `schema` gives it."""

from __future__ import annotations

from alembic import context

from coordinator.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
