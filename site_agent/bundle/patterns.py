"""One regular expression for very many words, whose cost does not grow with their number: a tree of their letters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_LONG = 6
_EDGE = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt])|(?<=%[0-9A-Fa-f][0-9A-Fa-f]))"
_END = ""
_Tree = dict[str, Any]


def pattern_of(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds the longest of some words, whatever the case of its letters.

    Args:
        words: In lower case, at least one. Words shorter than six letters count only where no letter or digit is
            beside them, but for an escaped sign such as a new line.
    """
    known = [word for word in words if word]
    parts = []
    if long := [word for word in known if len(word) >= _LONG]:
        parts.append(_written(_tree(long)))
    if short := [word for word in known if len(word) < _LONG]:
        parts.append(rf"{_EDGE}{_written(_tree(short))}(?![A-Za-z0-9])")
    return re.compile("|".join(parts), re.IGNORECASE)


def _tree(words: Iterable[str]) -> _Tree:
    root: _Tree = {}
    for word in words:
        node = root
        for letter in word:
            node = node.setdefault(letter, {})
        node[_END] = {}
    return root


def _written(node: _Tree) -> str:
    """Return a tree as a pattern; chains of letters need no recursion, so that long names are no matter."""
    chain = ""
    while len(node) == 1 and _END not in node:
        ((letter, node),) = node.items()
        chain += re.escape(letter)
    ways = [re.escape(letter) + _written(below) for letter, below in sorted(node.items()) if letter != _END]
    if not ways:
        return chain
    return f"{chain}(?:{'|'.join(ways)}){'?' if _END in node else ''}"
