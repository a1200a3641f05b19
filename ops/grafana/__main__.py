"""Write the dashboards: `python -P -m ops.grafana`. A test compares what it writes with what is checked in."""

from __future__ import annotations

import json
from pathlib import Path

from ops.grafana import federation, privacy, site
from ops.grafana.layout import Dashboard

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS: tuple[Dashboard, ...] = (federation.DASHBOARD, site.DASHBOARD, privacy.DASHBOARD)


def text(dashboard: Dashboard) -> str:
    """Return the file of a dashboard."""
    return json.dumps(dashboard.to_json(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all dashboards."""
    FOLDER.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.uid}.json").write_text(text(dashboard))


if __name__ == "__main__":
    main()
