"""The anchors of the deepest level in two dimensions.

The plane is that of the two main components (PCA) of all anchors that exist; both axes have one scale, so distances in
the drawing are distances in that plane. Anchors that no patient has fed are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from markupsafe import Markup

from fedmepd.report import svg
from fedmepd.report.names import LOOKS
from fedmepd.report.run import Anchors, Run

_WIDTH, _HEIGHT, _MARGIN = 360.0, 300.0, 34.0
_NEEDED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorMap:
    """A drawing of one method's anchors.

    Attributes:
        method: Name of the method.
        level: Level whose anchors are shown.
        explained: Fraction of the variance along each of the two axes.
        absent: Number of anchors that no patient has fed.
        chart: The drawing.
    """

    method: str
    level: str
    explained: tuple[float, float]
    absent: int
    chart: Markup


def anchor_maps(run: Run) -> list[AnchorMap]:
    """Draw the anchors of every method that has at least three of them, of the run's number of classes."""
    return [
        _draw(record.name, record.anchors, run.task.classes)
        for record in run.methods
        if record.anchors is not None
        and int(record.anchors.present.sum()) >= _NEEDED
        and len(record.anchors.vectors) == len(run.task.classes)
    ]


def project(vectors: Float[np.ndarray, "n channels"]) -> tuple[Float[np.ndarray, "n 2"], tuple[float, float]]:
    """Project vectors onto their two main components.

    Args:
        vectors: At least two, of at least two channels.

    Returns:
        Coordinates, and the fraction of the variance along each axis. The sign of each axis is chosen so that its
        largest coordinate is positive, which makes drawings of like runs alike.
    """
    centred = (vectors - vectors.mean(axis=0)).astype(np.float64)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    flat = left[:, :2] * sizes[:2]
    flat *= np.where(flat[np.abs(flat).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    variance = sizes**2 / max(float((sizes**2).sum()), 1e-12)
    return flat, (float(variance[0]), float(variance[1]))


def _draw(method: str, anchors: Anchors, classes: tuple[str, ...]) -> AnchorMap:
    owners, clusters = np.nonzero(anchors.present)
    flat, explained = project(anchors.vectors[owners, clusters])
    places = _fit(flat)
    groups = [
        _class_group(index, name, places[owners == index], clusters[owners == index])
        for index, name in enumerate(classes)
        if (owners == index).any()
    ]
    axes = [
        svg.element("rect", x=1, y=1, width=_WIDTH - 2, height=_HEIGHT - 22, class_="frame"),
        svg.element("text", _axis("component 1", explained[0]), x=_WIDTH / 2, y=_HEIGHT - 7, **_MIDDLE),
        svg.element(
            "text",
            _axis("component 2", explained[1]),
            x=12,
            y=_HEIGHT / 2 - 10,
            **_MIDDLE,
            transform=f"rotate(-90 12 {_HEIGHT / 2 - 10:.0f})",
        ),
    ]
    label = f"Anchors of {anchors.level} in the plane of their two main components: {', '.join(classes)}."
    return AnchorMap(
        method=method,
        level=anchors.level,
        explained=explained,
        absent=int((~anchors.present).sum()),
        chart=svg.drawing(_WIDTH, _HEIGHT, label, *axes, *(g[0] for g in groups), *(g[1] for g in groups)),
    )


_MIDDLE: dict[str, str | float] = {"class_": "tick", "text_anchor": "middle"}


def _axis(name: str, explained: float) -> str:
    return f"{name} ({100 * explained:.0f} % of variance)"


def _fit(flat: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    low, high = flat.min(axis=0), flat.max(axis=0)
    room = np.array([_WIDTH - 2 * _MARGIN, _HEIGHT - 22 - 2 * _MARGIN])
    scale = float((room / np.maximum(high - low, 1e-9)).min())
    centre = np.array([_WIDTH / 2, (_HEIGHT - 22) / 2])
    places: Float[np.ndarray, "n 2"] = centre + (flat - (low + high) / 2) * scale * np.array([1.0, -1.0])
    return places


def _class_group(
    index: int, name: str, places: Float[np.ndarray, "k 2"], clusters: Integer[np.ndarray, " k"]
) -> tuple[Markup, Markup]:
    """Return spokes and points of a class, and its name, which is drawn above everything else."""
    x, y = (float(v) for v in places.mean(axis=0))
    spokes = [svg.element("line", x1=x, y1=y, x2=float(px), y2=float(py), class_="spoke") for px, py in places]
    points = [svg.marker(index, float(px), float(py), 4.6, class_="point") for px, py in places]
    numbers = [
        svg.element("text", str(int(cluster) + 1), x=float(px) + 7, y=float(py) - 4, class_="tick halo")
        for (px, py), cluster in zip(places, clusters, strict=True)
    ]
    look = f"class-{index % LOOKS}"
    above = max(float(places[:, 1].min()) - 14, 16.0)
    title = svg.element("text", name, x=x, y=above, class_=f"name halo {look}", text_anchor="middle")
    return svg.element("g", *spokes, *points, *numbers, class_=look), title
