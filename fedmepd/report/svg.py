"""SVG elements as escaped markup.

Guarantees that text and attribute values are escaped. Colours are left to CSS classes, so that one drawing serves
light, dark and print.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape


def element(name: str, *children: str, **attributes: str | float) -> Markup:
    """Return one element.

    Args:
        name: Tag name.
        children: Markup is nested as it is; plain text is escaped.
        attributes: Values of attributes; `class_` is `class`, other underscores become hyphens, numbers are rounded
            to a tenth.
    """
    written = "".join(f' {_name(key)}="{escape(_value(value))}"' for key, value in attributes.items())
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{written}>{inside}</{name}>" if inside else f"<{name}{written}/>")  # noqa: S704  escaped above


def drawing(
    width: float,
    height: float,
    label: str,
    *children: str,
    class_: str = "chart",
    origin: tuple[float, float] = (0, 0),
) -> Markup:
    """Return an inline SVG that scales with its box and says to a screen reader what it shows.

    Args:
        width: Width of the coordinate system, in units.
        height: Height of the coordinate system, in units.
        label: What is to be seen, in words.
        children: Elements.
        class_: CSS classes.
        origin: Upper left corner of what is shown.
    """
    return element(
        "svg",
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"{origin[0]:g} {origin[1]:g} {width:g} {height:g}",
        role="img",
        aria_label=label,
        class_=class_,
    )


def polyline(points: Sequence[tuple[float, float]], **attributes: str | float) -> Markup:
    """Return an open line through the points (x, y)."""
    return element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), fill="none", **attributes)


def closed_path(rings: Sequence[Sequence[tuple[float, float]]], **attributes: str | float) -> Markup:
    """Return one path of several closed rings of points (x, y)."""
    drawn = "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in ring) + "Z" for ring in rings)
    return element("path", d=drawn, fill="none", **attributes)


_SHAPES: tuple[tuple[tuple[float, float], ...], ...] = (
    (),  # a disc
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0, -1.2), (1.2, 0.9), (-1.2, 0.9)),
    ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    ((-1.2, -0.9), (1.2, -0.9), (0, 1.2)),
    ((-0.6, -1.1), (0.6, -1.1), (1.1, 0), (0.6, 1.1), (-0.6, 1.1), (-1.1, 0)),
)


def marker(shape: int, x: float, y: float, size: float = 3.0, **attributes: str | float) -> Markup:
    """Return one of six point shapes: disc, square, triangle, diamond, triangle on its tip, hexagon.

    Args:
        shape: Which; counted modulo six.
        x: Centre.
        y: Centre.
        size: Half width, in units.
        attributes: Further attributes.
    """
    corners = _SHAPES[shape % len(_SHAPES)]
    if not corners:
        return element("circle", cx=x, cy=y, r=size, **attributes)
    points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
    return element("polygon", points=points, **attributes)


def _name(key: str) -> str:
    return "class" if key == "class_" else key.replace("_", "-")


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
