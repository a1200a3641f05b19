"""The context of a round's input: a digest by which a site sees that roster, layout and run are what it was told.

Both ends compute it (PROTOCOL 8.5). It is that of plain runs: what keys, masks and signatures of secure runs are bound
to is the context of SPEC 9.3.
"""

from __future__ import annotations

from collections.abc import Sequence

from protos.terms import RoundId
from security.encoding import digest

_LABEL = "fedmepd/round-context"


def round_context(round_id: RoundId, *, spec: str, layout: str, roster: Sequence[str]) -> str:
    """Return the context in hexadecimal.

    Args:
        round_id: Run, round and attempt.
        spec: SHA-256 of the run's specification, hexadecimal.
        layout: SHA-256 of the layout, hexadecimal.
        roster: Sites that were ready when training closed, sorted.
    """
    numbers = (str(round_id.round_number).encode(), str(round_id.attempt).encode())
    parts = (round_id.run.encode(), *numbers, spec.encode(), layout.encode(), *(site.encode() for site in roster))
    return digest(_LABEL, 1, *parts).hex()
