"""Slices of test cases with the outlines of truth and prediction.

Every slice is stored once as a small grey PNG inside the page; outlines are vector paths above it. Intensities are
windowed for looking (1st to 99.5th percentile of the brain) and reduced to 64 greys: good for seeing where a
prediction goes wrong, not for reading an image.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import contourpy
import numpy as np
from jaxtyping import Bool, Float, UInt8
from markupsafe import Markup
from PIL import Image

from fedmepd.report import svg
from fedmepd.report.names import method_title, modality_title
from fedmepd.report.run import Overlay, Run
from fedmepd.task import Task

_MARGIN = 3
_GREYS = 64
_WINDOW = (1.0, 99.5)

_SURROUND = 0.18
_LEAST_FRAME = 0.4

_Box = tuple[float, float, float, float]
"""x, y, width and height."""

REGION_LOOKS = 5
"""Number of distinct outline colours (`region-<n>` in the style sheet)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture with its caption."""

    caption: str
    drawing: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayCard:
    """The pictures of one slice: its modalities whole; outlines of truth and each method's prediction enlarged."""

    member: str
    case: str
    images: tuple[Picture, ...]
    outlines: tuple[Picture, ...]


def overlay_cards(run: Run) -> list[OverlayCard]:
    """Draw the overlays of a run, a card per slice, in the order of the members."""
    # methods that show the same slice share a card; the truth says whether it is the same
    cards: dict[tuple[str, str, bytes], list[tuple[str, Overlay]]] = {}
    for record in run.methods:
        for overlay in record.overlays:
            cards.setdefault((overlay.member, overlay.case, overlay.truth.tobytes()), []).append((record.name, overlay))
    order = {member.id: position for position, member in enumerate(run.facts.members)}
    known = sorted(cards.items(), key=lambda item: (order.get(item[0][0], len(order)), item[0][1]))
    dice = _mean_dice(run)
    return [_card(f"slice-{number}", found, run.task, dice) for number, (_, found) in enumerate(known)]


def _mean_dice(run: Run) -> dict[tuple[str, str, str], float]:
    regions: dict[tuple[str, str, str], list[float]] = {}
    for record in run.methods:
        for score in record.scores:
            regions.setdefault((record.name, score.member, score.case), []).append(score.dice)
    return {key: sum(values) / len(values) for key, values in regions.items()}


def _card(
    name: str, found: Sequence[tuple[str, Overlay]], task: Task, dice: dict[tuple[str, str, str], float]
) -> OverlayCard:
    first = found[0][1]
    head = _head(first.image)
    labelled = np.maximum.reduce([first.truth, *(overlay.prediction for _, overlay in found)])[head]
    frame = _enlarged(labelled)
    images = _images(name, first, head, frame)
    base = svg.element("use", href=f"#{name}-{first.modalities[0]}")
    truth = _outlines(first.truth[head], task, "truth")
    outlines = [_picture("truth", f"Outlines of the truth in case {first.case}", frame, base, *truth)]
    dashed = _outlines(first.truth[head], task, "dashed")
    for method, overlay in found:
        title = method_title(method)
        reached = dice.get((method, overlay.member, overlay.case))
        caption = title if reached is None else f"{title} · Dice {reached:.2f}"
        label = f"Outlines of the prediction by {title} and, dashed, of the truth in case {overlay.case}"
        predicted = _outlines(overlay.prediction[head], task, "predicted")
        outlines.append(_picture(caption, label, frame, base, *predicted, *dashed))
    return OverlayCard(member=first.member, case=first.case, images=tuple(images), outlines=tuple(outlines))


def _images(name: str, overlay: Overlay, head: tuple[slice, slice], frame: _Box) -> list[Picture]:
    """Draw the modalities as they are; the first shows what the outlines' pictures enlarge."""
    rows, cols = overlay.truth[head].shape
    pictures: list[Picture] = []
    for modality, image in zip(overlay.modalities, _grey(overlay.image), strict=True):
        title = modality_title(modality)
        drawn = [svg.element("image", href=_png(image[head]), width=cols, height=rows, id=f"{name}-{modality}")]
        if not pictures:
            x, y, width, height = frame
            drawn.append(svg.element("rect", x=x, y=y, width=width, height=height, class_="box"))
        label = f"{title} slice of case {overlay.case}"
        pictures.append(_picture(title, label, (0, 0, cols, rows), *drawn))
    return pictures


def _picture(caption: str, label: str, box: _Box, *drawn: Markup) -> Picture:
    return Picture(caption=caption, drawing=svg.drawing(box[2], box[3], label, *drawn, class_="slice", origin=box[:2]))


def _enlarged(labelled: UInt8[np.ndarray, "rows cols"]) -> _Box:
    """Return a square around what is labelled, or around the middle where nothing is."""
    rows, cols = labelled.shape
    own_rows, own_cols = (np.flatnonzero(labelled.any(axis=axis)) for axis in (1, 0))
    spans = [(int(i[0]), int(i[-1]) + 1) for i in (own_rows, own_cols)] if own_rows.size else [(0, rows), (0, cols)]
    extent = max(end - start for start, end in spans) * (1 + 2 * _SURROUND)
    side = min(max(extent, _LEAST_FRAME * min(rows, cols)), rows, cols)
    y, x = (
        min(max((start + end) / 2 - side / 2, 0), size - side)
        for (start, end), size in zip(spans, (rows, cols), strict=True)
    )
    return x, y, side, side


def _head(image: Float[np.ndarray, "modality rows cols"]) -> tuple[slice, slice]:
    """Return the box of what is not background, with a margin: background is 0 in every modality."""
    inside = (image != 0).any(axis=0)
    if not inside.any():
        return slice(None), slice(None)
    rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return (
        slice(max(int(rows[0]) - _MARGIN, 0), int(rows[-1]) + _MARGIN + 1),
        slice(max(int(cols[0]) - _MARGIN, 0), int(cols[-1]) + _MARGIN + 1),
    )


def _grey(image: Float[np.ndarray, "modality rows cols"]) -> list[UInt8[np.ndarray, "rows cols"]]:
    inside = (image != 0).any(axis=0)
    return [_window(np.nan_to_num(channel), inside) for channel in image]


def _window(
    channel: Float[np.ndarray, "rows cols"], inside: Bool[np.ndarray, "rows cols"]
) -> UInt8[np.ndarray, "rows cols"]:
    if not inside.any():
        return np.zeros(channel.shape, dtype=np.uint8)
    low, high = np.percentile(channel[inside], _WINDOW)
    # z-scored brains have their mean at 0, as the background has: what is outside is black by decree
    level = np.clip((channel - low) / max(float(high - low), 1e-6), 0, 1) * 0.92 + 0.08
    steps = np.round(np.where(inside, level, 0) * (_GREYS - 1)) * (255 / (_GREYS - 1))
    return steps.astype(np.uint8)


def _png(image: UInt8[np.ndarray, "rows cols"]) -> str:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _outlines(classes: UInt8[np.ndarray, "rows cols"], task: Task, style: str) -> list[Markup]:
    drawn: list[Markup] = []
    for index, region in enumerate(task.regions):
        rings = _rings(np.isin(classes, region.classes))
        if rings:
            drawn.append(svg.closed_path(rings, class_=f"outline {style} region-{index % REGION_LOOKS}"))
    return drawn


def _rings(mask: Bool[np.ndarray, "rows cols"]) -> list[list[tuple[float, float]]]:
    """Return the closed outlines of a mask as points (x, y), a pixel being one unit with its centre at .5."""
    if not mask.any():
        return []
    # a border of zeros closes every line
    lines = contourpy.contour_generator(z=np.pad(mask.astype(np.float64), 1)).lines(0.5)
    return [[(float(x) - 0.5, float(y) - 0.5) for x, y in np.asarray(line)[:-1]] for line in lines]
