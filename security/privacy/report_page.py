"""A privacy report as one HTML file that a person prints on A4 and signs.

Guarantees that the file needs nothing else: no script, no font, no picture from elsewhere (a content security policy in
the page forbids it), and that all text is escaped. Nothing is told by colour alone. Page numbers need a browser that
knows margin boxes (Chromium 131 or newer); others print their own.
"""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from security.privacy import report_chart, report_rows
from security.privacy import report_words as words
from security.privacy.report import Report


def render(report: Report) -> str:
    """Return a report as HTML."""
    folder = resources.files("security.privacy")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))
    style = Markup((folder / "report.css").read_text(encoding="utf-8"))  # noqa: S704  part of the package
    return template.render(style=style, report=report, rows=report_rows, chart=report_chart, words=words)
