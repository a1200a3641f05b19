"""Pieces of a text that are decided: each is held as one sign that no pattern knows, until all patterns were applied.

So what one rule put or kept is never looked at by a later one, and nothing that the text itself says can pass for it.
"""

from __future__ import annotations

import re

SIGNS = "\U000f0000-\U0010fffd"
_FIRST, _LAST = 0xF0000, 0x10FFFD
_SIGN = re.compile(f"[{SIGNS}]")


class Held:
    """The pieces of one text."""

    def __init__(self) -> None:
        self._signs: dict[str, str] = {}
        self._texts: dict[str, str] = {}

    @staticmethod
    def free(text: str) -> str:
        """Return a text in which no sign means a piece."""
        return _SIGN.sub("\N{REPLACEMENT CHARACTER}", text)

    def keep(self, text: str) -> str:
        """Return the sign of a piece; pieces in it are part of it."""
        text = self.back(text)
        if (sign := self._signs.get(text)) is None:
            sign = self._signs[text] = chr(min(_FIRST + len(self._signs), _LAST))
            self._texts.setdefault(sign, text if sign != chr(_LAST) else "<removed>")
        return sign

    def back(self, text: str) -> str:
        """Return a text with its pieces in place of their signs."""
        return _SIGN.sub(lambda found: self._texts.get(found[0], "<removed>"), text)
