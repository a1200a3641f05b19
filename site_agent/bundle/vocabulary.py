"""Dotted names that the program itself writes (`metrics.listen`, `round.declined`, `site_agent.driver`): no hosts.

They are read from the program's own sources, so that any other dotted name can be taken for a host.
"""

from __future__ import annotations

import functools
import re
import sys
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

_PACKAGES = ("fedmepd", "protos", "security", "site_agent")
_DOTTED = re.compile(r"(?<![\w.])[A-Za-z_]\w*+(?:\.[A-Za-z_]\w*+)+")
_COUNTRY = 2
_DOMAIN_WORDS = "com org net edu gov int mil info health hospital local lan home corp intern internal example"
_DOMAINS = set(_DOMAIN_WORDS.split())
_FILES = """bin begun cfg ckpt conf cpp csr csv cuh gz hpp html ini json jsonl key lock log npy npz pem png pub pyc
safetensors service sock tar toml txt whl yaml yml"""
_ENDINGS = set(_FILES.split())
_RAISED = re.compile(r"[A-Z]\w*(?:Error|Exception|Warning|Interrupt|Exit)")


def is_own(name: str, following: str) -> bool:
    """Tell whether a dotted name is one of a program or of a file, and not of a host.

    Args:
        name: The name.
        following: The sign after it.
    """
    first, last = name.partition(".")[0], name.rpartition(".")[2]
    if last.lower() in _ENDINGS or name in _own():
        return True
    if first.lower() not in _modules() or _like_a_domain(last):
        return name.startswith("lib") and name.endswith(".so")
    return _RAISED.fullmatch(last) is not None or following == "("


def _like_a_domain(ending: str) -> bool:
    return len(ending) == _COUNTRY or ending.lower() in _DOMAINS


@functools.cache
def _own() -> frozenset[str]:
    found: set[str] = set()
    for package in _PACKAGES:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            for path in sorted(Path(folder).rglob("*.py")):
                names = set(_DOTTED.findall(path.read_text("utf-8", "replace")))
                found |= names | {".".join(name.split(".")[-2:]) for name in names}
                found.add(path.name)
    return frozenset(name for name in found if name.endswith(".py") or not _like_a_domain(name.rpartition(".")[2]))


@functools.cache
def _modules() -> frozenset[str]:
    return frozenset(name.lower() for name in (*sys.stdlib_module_names, *packages_distributions()))
