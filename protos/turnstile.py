"""A turnstile for small HTTP servers with a thread per connection: so many at a time, and each for so long.

Guarantees that neither many connections nor slow ones take threads without end: one too many is turned away at once,
and one whose time is over is cut, whatever the other end does. Does not accept, shake hands or answer.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Turnstile:
    """Lets connections in.

    Args:
        most: How many at a time.
        longest_s: How long each.
    """

    def __init__(self, most: int, longest_s: float) -> None:
        self._free, self._longest_s = threading.BoundedSemaphore(most), longest_s

    def enter(self) -> bool:
        """Return whether there is room for one more, which then has to `leave`; waits for nothing."""
        return self._free.acquire(blocking=False)

    def leave(self) -> None:
        """Make room again."""
        self._free.release()

    def timed(self, connection: socket.socket) -> contextlib.AbstractContextManager[None]:
        """Cut a connection that is still in the block when its time is over."""
        return within(self._longest_s, connection)


@contextlib.contextmanager
def within(seconds: float, connection: socket.socket) -> Iterator[None]:
    """Cut a connection unless the block is over in time; its reads end then, and its writes fail."""
    watch = threading.Timer(seconds, _cut, (connection,))
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # below TLS, which would wait for the other end
