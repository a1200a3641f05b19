"""The coordinator's database on SQLite or PostgreSQL: the store port (`coordinator.ports.Store`) on SQLAlchemy Core.

Guarantees that units of work are serialised, also between processes; that all of a unit is durable when its block
ends and nothing of it if it raises or the process is killed; that the schema is brought up to date when the store is
opened and that a newer one is refused. A connection that is lost while a unit is being committed leaves it open
whether the unit took place: what is done again must be written so that twice does no harm.
"""

from __future__ import annotations

from coordinator.store.engine import SqlStore, open_store

__all__ = ["SqlStore", "open_store"]
