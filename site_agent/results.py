"""What runs have left at the site: one folder per run, with the site's own model, scores and metrics."""

from __future__ import annotations

from pathlib import Path

from site_agent.errors import StateError

_FOLDER = "results"


def own_model(data: Path, run: str | None) -> Path:
    """Return the file of the site's own model.

    Args:
        data: The agent's folder.
        run: Of which run; of the one that ended last if None.

    Raises:
        StateError: If there is none.
    """
    found = sorted((data / _FOLDER).glob("*/methods/*/models/*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    models = [path for path in found if run is None or path.relative_to(data / _FOLDER).parts[0] == run]
    if models:
        return models[-1]
    ended = ", ".join(sorted({path.relative_to(data / _FOLDER).parts[0] for path in found})) or "none yet"
    raise StateError(
        f"there is no model {'of a run' if run is None else f'of run {run!r}'} in {data / _FOLDER}",
        remedy=f"runs that left one: {ended}; a model is kept when a run is over",
    )
