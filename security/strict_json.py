"""JSON from outside, read strictly: a size limit, no repeated keys, exactly the fields that are expected.

Every fault is a `ValueError` with a short reason; callers turn it into an error that names the document.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any


def read_object(document: bytes, max_bytes: int) -> dict[str, Any]:
    """Return the object that a document holds.

    Raises:
        ValueError: If it is too large, not JSON, not an object, or repeats a key.
    """
    if len(document) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes} bytes")
    try:
        value = json.loads(document, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return as_object(value)


def as_object(value: Any) -> dict[str, Any]:
    """Return a value that must be an object.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, dict):
        raise ValueError("an object is expected")  # noqa: TRY004 -- one kind of error for callers
    return value


def fields(value: Any, **kinds: type) -> dict[str, Any]:
    """Return an object that must have exactly these fields of these types.

    Raises:
        ValueError: If a field is missing, unknown or of another type.
    """
    found = as_object(value)
    if unknown := sorted(found.keys() - kinds.keys()):
        raise ValueError(f"the field {unknown[0]!r} is unknown")
    for name, kind in kinds.items():
        if name not in found:
            raise ValueError(f"the field {name!r} is missing")
        if type(found[name]) is not kind:  # an exact match: a bool is no int here
            raise ValueError(f"the field {name!r} is not of type {kind.__name__}")
    return found


def strings(value: Any) -> tuple[str, ...]:
    """Return a list that must hold strings only.

    Raises:
        ValueError: If it does not.
    """
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("a list of strings is expected")
    return tuple(value)


def instant(value: str) -> datetime:
    """Return the instant that an ISO 8601 string with time zone means, in UTC.

    Raises:
        ValueError: If it is none, or has no time zone.
    """
    at = datetime.fromisoformat(value)
    if at.utcoffset() is None:
        raise ValueError(f"the time {value!r} has no time zone")
    return at.astimezone(UTC)


def written(at: datetime) -> str:
    """Return an instant as `instant` reads it."""
    return at.astimezone(UTC).isoformat()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is repeated")
    return made


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
