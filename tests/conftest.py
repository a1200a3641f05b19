"""Of all tests: drawn examples repeat; shapes and types are checked at run time, wherever jaxtyping can."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import jaxtyping
import torch

# Drawn examples are the same at every run, and a busy machine fails no test.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")

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
