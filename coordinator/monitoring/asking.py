"""Questions that may take long (database, disks), asked in threads of their own: who reads waits two seconds at most.

A question is under way once, however many read; what it answered is told again for a few seconds, a fault for 15 s at
most. One that hangs leaves a waiting thread behind, and is not asked again before it has ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

PATIENCE_S = 2.0
_FRESH_S, _RETRY_S = 5.0, 15.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[_T]):
    """What came of a question.

    Attributes:
        value: The newest answer, however old; None if there never was one.
        error: Why there is none now; empty if there is.
        seconds: How long it took.
    """

    value: _T | None = None
    error: str = ""
    seconds: float = 0.0


class Asked(Generic[_T]):
    """A question.

    Args:
        ask: Answers it; what it raises is told.
        fresh_s: For how long an answer is told again.
        patience_s: How long a reader waits.
    """

    def __init__(self, ask: Callable[[], _T], *, fresh_s: float = _FRESH_S, patience_s: float = PATIENCE_S) -> None:
        self._ask, self._fresh_s, self._patience_s = ask, fresh_s, patience_s
        self._lock = threading.Lock()
        self._running: threading.Thread | None = None
        self._began, self._stale = -float("inf"), False
        self._last: Answer[_T] | None = None

    def begin(self) -> None:
        """Ask, unless it is under way or was answered just now; never raises."""
        with self._lock:
            age = time.monotonic() - self._began
            fresh_s = min(self._fresh_s, _RETRY_S) if self._last and self._last.error else self._fresh_s
            if self._running is not None or (self._last and age < fresh_s and not self._stale):
                return
            self._began, self._stale = time.monotonic(), False
            asking = threading.Thread(target=self._run, name="monitoring", daemon=True)
            try:
                asking.start()
            except Exception as error:  # noqa: BLE001  no thread to be had now: that is the answer, and not for good
                self._last = self._failed(error)
            else:
                self._running = asking  # it cannot end before: that takes the lock

    def answer(self) -> Answer[_T]:
        """Return what is known, after a wait for what is under way."""
        self.begin()
        running = self._running
        if running is not None:
            running.join(max(0.0, self._began + self._patience_s - time.monotonic()))
        with self._lock:
            last: Answer[_T] = Answer() if self._last is None else self._last
            if self._running is None:
                return last
        return Answer(value=last.value, error=f"no answer within {self._patience_s:g} s")

    def forget(self) -> None:
        """Let the next reader ask anew."""
        self._stale = True

    def _run(self) -> None:
        began = time.monotonic()
        try:
            answer = Answer(value=self._ask(), seconds=time.monotonic() - began)
        except Exception as error:  # noqa: BLE001  whatever it is, it is the answer
            answer = self._failed(error)
        with self._lock:
            self._last, self._running = answer, None

    def _failed(self, error: Exception) -> Answer[_T]:
        before = None if self._last is None else self._last.value
        return Answer(value=before, error=str(error) or type(error).__name__)
