"""Shapes and types of the domain's functions are checked at run time in tests, wherever jaxtyping and beartype can."""

from __future__ import annotations

import jaxtyping

# An int is welcome where a float is asked for, as in PEP 484.
BEARTYPE = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"

# Must run before any of these modules is imported.
# Left out: modules that take structural stand-ins in tests, which run-time checks of nominal types would refuse.
CHECKED = [
    f"fedmepd.{module}"
    for module in (
        "aggregation",
        "anchors",
        "config",
        "fixed_point",
        "labels",
        "layout",
        "losses",
        "methods",
        "personalization",
        "rounds",
        "seeds",
        "task",
    )
]
jaxtyping.install_import_hook(CHECKED, BEARTYPE)
