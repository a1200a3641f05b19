"""Links between documents lead somewhere: the file is there, and so is the heading."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, pages

_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_FENCED = re.compile(r"^`{3,}.*?^`{3,}\s*$", re.MULTILINE | re.DOTALL)
MORE = ("security/THREAT_MODEL.md", "security/SPEC.md", "protos/PROTOCOL.md", "tests/README.md", "benchmarks/README.md")


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*pages(), *(Path(name) for name in MORE)], ids=str)
def test_every_link_leads_to_a_file_and_its_heading(page: Path) -> None:
    text = _FENCED.sub("", (ROOT / page).read_text())
    broken = []
    for found in _LINK.finditer(text):
        target, _, heading = found["target"].partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        if not path.exists() or (heading and path.suffix == ".md" and heading not in anchors(path)):
            broken.append(found["target"])
    assert broken == []
