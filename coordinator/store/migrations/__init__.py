"""Steps of the database's schema, oldest first; `coordinator.store.schema` applies them."""
