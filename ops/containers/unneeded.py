"""Print the installed distributions that a distribution needs neither directly nor indirectly: development tools.

Guarantees that nothing that is required for the environment at hand is printed, extras included. Does not look at
what is imported without being required.
"""

# ruff: noqa: INP001  a program of the build, not a package
from __future__ import annotations

import sys
from importlib.metadata import distribution, distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(name: str) -> set[str]:
    """Return the distribution and everything that it requires.

    Args:
        name: Of an installed distribution.
    """
    found: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(name), "")]
    while waiting:
        item = waiting.pop()
        if item in found:
            continue
        found.add(item)
        owner, extra = item
        for text in distribution(owner).requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                required = canonicalize_name(requirement.name)
                waiting += [(required, wanted) for wanted in ("", *sorted(requirement.extras))]
    return {owner for owner, _ in found}


def unneeded(name: str) -> list[str]:
    """Return what is installed without being needed, in order.

    Args:
        name: Of an installed distribution.
    """
    return sorted({canonicalize_name(item.metadata["Name"]) for item in distributions()} - needed(name))


if __name__ == "__main__":
    print("\n".join(unneeded(sys.argv[1])))
