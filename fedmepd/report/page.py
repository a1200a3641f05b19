"""Putting a run's tables and drawings into one HTML file.

Guarantees that the file needs nothing else: no script, no font, no picture from elsewhere (a content security policy
in the page forbids it). The text adapts to what the run holds; parts that are missing are named.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fedmepd import __version__
from fedmepd.durable import write_text
from fedmepd.errors import RunError
from fedmepd.report import facts, svg
from fedmepd.report.anchors import anchor_maps
from fedmepd.report.comparison import Comparison, comparison
from fedmepd.report.curves import dice_panels
from fedmepd.report.names import in_order, method_looks, method_title, modality_title
from fedmepd.report.overlays import overlay_cards
from fedmepd.report.personal import personal_filters
from fedmepd.report.run import Run, read_run
from fedmepd.report.score_tables import score_table

_NOT_FEDERATED = ("local", "centralised")


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the report of a run.

    Args:
        run: Run folder.
        out: File to write; None writes `report.html` into the run folder.

    Returns:
        The file that was written.

    Raises:
        RunError: If the run cannot be read or the file cannot be written.
    """
    target = out or run / "report.html"
    text = render(read_run(run))
    try:
        write_text(target, text)
    except OSError as error:
        raise RunError(
            f"{target}: cannot be written ({error.strerror})", remedy="name another file with --out"
        ) from error
    return target


def render(run: Run) -> str:
    """Return the report of a run as HTML."""
    folder = resources.files("fedmepd.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "method": method_title,
        "modality": modality_title,
        "duration": facts.duration,
        "signed": _signed,
    }
    environment.globals["swatch"] = _swatch
    template = environment.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))
    style = Markup((folder / "report.css").read_text(encoding="utf-8"))  # noqa: S704  part of the package
    return template.render(style=style, version=__version__, **_content(run))


def _content(run: Run) -> dict[str, Any]:
    main, others = _compared(run)
    looks = method_looks([method.name for method in run.methods])
    return {
        "run": run,
        "facts": run.facts,
        "status": facts.status(run),
        "created": facts.date(run.facts.created),
        "main": main,
        "others": others,
        "methods": in_order(run.facts.methods),
        "looks": looks,
        "panels": dice_panels(run),
        "dice": score_table(run, "dice"),
        "hd95": score_table(run, "hd95"),
        "personal": personal_filters(run),
        "aggregations": facts.aggregations(run),
        "anchor_maps": anchor_maps(run),
        "cards": overlay_cards(run),
        "timing": facts.timing(run),
        "glossary": facts.glossary(run),
    }


def _compared(run: Run) -> tuple[Comparison | None, list[Comparison]]:
    """Return the federated method against `local`, and against every other method that was run."""
    federated = next((name for name in in_order(run.facts.methods) if name not in _NOT_FEDERATED), None)
    if federated is None:
        return None, []
    baselines = sorted((name for name in run.facts.methods if name != federated), key=lambda name: name != "local")
    found = [made for name in baselines if (made := comparison(run, federated, name)) is not None]
    main = next((made for made in found if made.baseline == "local"), None)
    return main, [made for made in found if made is not main]


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def _swatch(look: int) -> Markup:
    """Return the sample of a line that a legend shows."""
    line = svg.polyline([(1, 6), (27, 6)], class_="line")
    sample = svg.element("g", line, svg.marker(look, 14, 6, 3.2, class_="point"), class_=f"series-{look}")
    return svg.element("svg", sample, viewBox="0 0 28 12", class_="swatch", aria_hidden="true")
