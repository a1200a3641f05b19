"""What documents show: fenced blocks with what is said about them, and commands within the text.

A comment before a block says what a test does with it; readers do not see it:

    <!-- at: laptop -->                        run on this host (a folder that stands for one), in the page's order
    <!-- at: north south, stays -->            on each of them, in the background until the end of the page
    <!-- file: run.toml, at: laptop -->        written there under this name
    <!-- stop: lead -->                        not run: what stays on this host is ended, as the block would
    <!-- shown: WHY -->                        not run, for one of `REASONS`; its commands are parsed all the same
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMANDS = ("sh", "bash", "console")
REASONS = {
    "containers": "needs Docker or another engine",
    "kubernetes": "needs a cluster",
    "systemd": "needs root and systemd as the first process",
    "postgresql": "needs a database of one's own; the store's suite runs on one",
    "data": "needs images that may not be passed on",
    "make": "is what runs this test, or what the demo's own test runs",
    "hours": "takes hours; a smaller one is run by a test that the page's own test names",
    "pattern": "shows the shape of commands, not commands",
    "development": "is for who changes the code",
}
_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<language>\w*)\s*$")
_COMMENT = re.compile(r"^<!-- (?P<text>(?:at|file|stop|shown): .*) -->$")
_INLINE = re.compile(r"(?<!`)`(?P<code>fedmepd(?:-\w+)?\s[^`]+)`(?!`)")
_FENCED = re.compile(r"^`{3,}.*?^`{3,}\s*?$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block.

    Attributes:
        page: The document, relative to the repository.
        line: Of its first fence.
        language: As the fence says.
        text: What is in it.
        remark: The comment before it, if there is one.
    """

    page: Path
    line: int
    language: str
    text: str
    remark: str

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page}:{self.line}"

    @property
    def told(self) -> dict[str, str]:
        """The comment's keys and values; `stays` is a key without a value."""
        parts = (part.partition(":") for part in self.remark.split(", ") if part)
        return {key.strip(): value.strip() for key, _, value in parts}

    @property
    def hosts(self) -> tuple[str, ...]:
        """Where it is run or written."""
        return tuple(self.told.get("at", "").split())

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands in it, without prompts, comments and what they print; continued lines are one."""
        joined = self.text.replace("\\\n", " ")
        lines = joined.splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def pages() -> tuple[Path, ...]:
    """Return the documents for people, relative to the repository."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for folder in ("docs", "ops", "ops/runbooks"):
        found += sorted((ROOT / folder).glob("*.md"))
    return tuple(path.relative_to(ROOT) for path in found)


def blocks_of(page: Path) -> Iterator[Block]:
    """Iterate over the fenced blocks of a document."""
    lines = (ROOT / page).read_text().splitlines()
    remark, number = "", 0
    while number < len(lines):
        line = lines[number]
        if said := _COMMENT.match(line.strip()):
            remark = said["text"]
        elif opened := _FENCE.match(line.strip()):
            end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == opened["fence"])
            text = "\n".join(lines[number + 1 : end]) + "\n"
            yield Block(page=page, line=number + 1, language=opened["language"], text=text, remark=remark)
            number, remark = end, ""
        elif line.strip():
            remark = ""
        number += 1


def inline_commands(page: Path) -> Iterator[tuple[int, str]]:
    """Iterate over the commands of our programs within a document's text, with their lines."""
    text = _FENCED.sub(lambda block: "\n" * block[0].count("\n"), (ROOT / page).read_text())
    for found in _INLINE.finditer(text):
        yield text.count("\n", 0, found.start()) + 1, " ".join(found["code"].split())
