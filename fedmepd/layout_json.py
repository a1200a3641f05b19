"""The layout as JSON: what a process without torch needs to know every length. Torch-free.

The layout follows from the shapes of the federated parameters, in their order, so that is what travels; it is built
anew by the reader, within bounds on the number and size of parameters.
"""

from __future__ import annotations

import hashlib
import json
from math import prod
from typing import Any

from fedmepd.errors import ConfigError
from fedmepd.layout import Layout, build_layout

MOST_PARAMETERS = 20_000
MOST_VALUES = 1 << 30
_MOST_NAMES = 64  # of modalities, of regions
_LONGEST_NAME = 200
_AXES = range(1, 6)  # a bias has one, a weight of a 3-D convolution five
_KEYS = {"modalities", "encoders", "decoder", "shapes"}
_REGIONS = "regions"  # not in layouts without


def layout_to_json(layout: Layout) -> dict[str, Any]:
    """Return plain data that `layout_from_json` reads back.

    Returns:
        `{"modalities": [name], "encoders": bool, "decoder": bool, "shapes": [[name, [size]]], "regions": [name]}`,
        without the last where there are none.
    """
    return {
        "modalities": list(layout.modalities),
        "encoders": layout.encoders,
        "decoder": layout.decoder,
        "shapes": [[name, list(shape)] for name, shape in layout.shapes.items()],
        **({_REGIONS: list(layout.regions)} if layout.regions else {}),
    }


def layout_digest(layout: Layout) -> str:
    """Return the SHA-256 of the layout's JSON, by which two processes see that they mean the same."""
    text = json.dumps(layout_to_json(layout), separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def layout_from_json(data: object, *, source: str = "layout") -> Layout:
    """Check plain data from elsewhere and build the layout.

    Args:
        data: Parsed JSON.
        source: Where it came from, for messages.

    Raises:
        ConfigError: Naming the field that is wrong.
    """
    if not isinstance(data, dict) or set(data) - {_REGIONS} != _KEYS:
        raise ConfigError(f"{source}: needs exactly the keys {', '.join(sorted(_KEYS))}")
    for flag in ("encoders", "decoder"):
        if not isinstance(data[flag], bool):
            raise ConfigError(f"{source}: {flag} must be true or false")
    modalities = _names(data["modalities"], f"{source}: modalities")
    regions = _names(data[_REGIONS], f"{source}: {_REGIONS}") if _REGIONS in data else ()
    shapes = _shapes(data["shapes"], source)
    try:
        return build_layout(shapes, modalities, encoders=data["encoders"], decoder=data["decoder"], regions=regions)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(f"{source}: shapes do not make a network ({error})") from error


def _names(names: object, field: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not 1 <= len(names) <= _MOST_NAMES:
        raise ConfigError(f"{field} must be a list of 1 to {_MOST_NAMES} names")
    if not all(_is_name(name) for name in names) or len(set(names)) != len(names):
        raise ConfigError(f"{field} must be distinct names")
    return tuple(names)


def _shapes(rows: object, source: str) -> dict[str, tuple[int, ...]]:
    if not isinstance(rows, list) or len(rows) > MOST_PARAMETERS:
        raise ConfigError(f"{source}: shapes must be a list of at most {MOST_PARAMETERS} parameters")
    shapes: dict[str, tuple[int, ...]] = {}
    values = 0
    for index, row in enumerate(rows):
        field = f"{source}: shapes.{index}"
        if not isinstance(row, list) or len(row) != 2 or not _is_name(row[0]) or row[0] in shapes:  # noqa: PLR2004  name, shape
            raise ConfigError(f"{field} must be a new name and a shape")
        name, shape = row
        if not isinstance(shape, list) or len(shape) not in _AXES or not all(_is_size(size) for size in shape):
            raise ConfigError(f"{field}: {name!r} needs 1 to 5 positive sizes")
        values += prod(shape)
        if values > MOST_VALUES:
            raise ConfigError(f"{source}: shapes hold more than {MOST_VALUES} values")
        shapes[name] = tuple(shape)
    return shapes


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_VALUES
