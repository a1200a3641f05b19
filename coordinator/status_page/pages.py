"""Writes what the status page says as HTML: escaped everywhere, no script, nothing from elsewhere.

Guarantees that text of others (names, reasons, software) is text and never markup, and that a missing value is an
error of the program and not an empty cell.
"""

from __future__ import annotations

from importlib import resources

from jinja2 import DictLoader, Environment, StrictUndefined

from coordinator.status_page.model import Page
from coordinator.status_page.words import names
from coordinator.wording import size

_TEMPLATES = ("base.html.j2", "status.html.j2", "parts.html.j2", "enter.html.j2", "notice.html.j2")


class Pages:
    """All pages, compiled once. Thread-safe."""

    def __init__(self) -> None:
        folder = resources.files("coordinator.status_page") / "templates"
        texts = {name: (folder / name).read_text(encoding="utf-8") for name in _TEMPLATES}
        self.style = (folder / "style.css").read_bytes()
        self._environment = Environment(
            loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self._environment.filters |= {"size": size, "names": names}

    def status(self, page: Page, *, viewer: str, session: bool, refresh: bool) -> bytes:
        """Return the status page.

        Args:
            page: What it says.
            viewer: Who looks, for its foot.
            session: Whether the viewer came by a link, and can leave.
            refresh: Whether it loads itself again.
        """
        return self._render("status.html.j2", page=page, viewer=viewer, session=session, refresh=refresh)

    def enter(self) -> bytes:
        """Return the page of a one-time link: a button, so that a preview of the link does not use it up."""
        return self._render("enter.html.j2")

    def notice(self, title: str, *lines: str) -> bytes:
        """Return a page with a few sentences."""
        return self._render("notice.html.j2", title=title, lines=lines)

    def _render(self, name: str, **values: object) -> bytes:
        return self._environment.get_template(name).render(**values).encode()
