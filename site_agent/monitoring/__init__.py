"""Metrics, health and readiness of a site agent, for the hospital's own monitoring; nothing of it leaves the site."""
