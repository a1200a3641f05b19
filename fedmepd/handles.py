"""Files that are read and written in threads on behalf of something that may be cancelled at any moment.

A cancelled caller does not wait for its thread. Closing the file under that thread could hand its descriptor to another
file; not closing it would leave it open. So the last of the two closes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import BinaryIO, TypeVar

T = TypeVar("T")


class Handle:
    """A file that one thread uses at a time.

    Args:
        opener: Opens it, in the thread that needs it first.
    """

    def __init__(self, opener: Callable[[], BinaryIO]) -> None:
        self._opener = opener
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._over = False

    def run(self, work: Callable[[BinaryIO], T]) -> T:
        """Do something with the file, as soon as no other thread does.

        Raises:
            ValueError: If it was closed.
        """
        try:
            with self._lock:
                if self._over:
                    raise ValueError("the file is closed")
                if self._file is None:
                    self._file = self._opener()
                return work(self._file)
        finally:
            self._tidy()

    def close(self) -> None:
        """Close the file now, or when the thread that uses it is done; never waits."""
        self._over = True
        self._tidy()

    def _tidy(self) -> None:
        if self._over and self._lock.acquire(blocking=False):
            try:
                if self._file is not None:
                    self._file.close()
            finally:
                self._lock.release()
