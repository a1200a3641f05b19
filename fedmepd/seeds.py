"""Seeds: every random draw of a run follows from (purpose, run seed, round, member), never from what ran before it.

That is what makes a resumed run equal an uninterrupted one, and a simulated federation a distributed one.
"""

from __future__ import annotations

import hashlib


def seed_of(purpose: str, *parts: object) -> int:
    """Derive a 63-bit seed, the same on every platform.

    Args:
        purpose: What the stream is for; different purposes never share a stream.
        parts: Anything that prints the same everywhere, such as seed, round and member.
    """
    text = "\x1f".join(["fedmepd", purpose, *(str(part) for part in parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
