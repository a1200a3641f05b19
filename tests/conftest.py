"""Shapes and types of the library's functions are checked at run time in tests, wherever jaxtyping and beartype can."""

from __future__ import annotations

from pathlib import Path

import jaxtyping
import torch

# One thread: tests are small, and fixed sums must not depend on how many cores the machine has.
torch.set_num_threads(1)

LIBRARY = Path(__file__).parents[1] / "fedmepd"
NOT_CHECKED = {
    "__init__",
    "cli",  # typer reads the signatures of commands itself
    "fusion",  # takes its calibrator by a protocol that cannot be checked at run time
    "phantom",  # its tests pass kinds that do not exist, to see them refused by the function itself
    "scores",  # its tests pass segmentations of different shapes, to see them refused likewise
    "simulate",  # takes its observer by a protocol that cannot be checked at run time
}
# An int is welcome where a float is asked for, as in PEP 484.
BEARTYPE = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"

# Must run before any of these modules is imported.
jaxtyping.install_import_hook(
    [
        f"fedmepd.{path.stem}"
        for path in sorted(LIBRARY.iterdir())
        if (path.suffix == ".py" or (path / "__init__.py").is_file()) and path.stem not in NOT_CHECKED
    ],
    BEARTYPE,
)
