"""Metrics, health and readiness of the coordinator, for its own site's monitoring: it reads, and changes nothing."""
