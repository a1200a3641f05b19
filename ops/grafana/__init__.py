"""Grafana's dashboards as code: `python -P -m ops.grafana` writes `ops/grafana/dashboards`."""
