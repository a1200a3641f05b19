"""The coordinator: service, its durable state, and the lead hospital's trainer."""
