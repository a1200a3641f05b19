"""Files under threads: closed once, by the last who needs them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from fedmepd.handles import Handle

LIMIT_S = 20.0


def test_a_closed_handle_opens_nothing(tmp_path: Path) -> None:
    opened = []

    def opener():
        opened.append(1)
        return (tmp_path / "file").open("xb")

    handle = Handle(opener)
    handle.close()
    with pytest.raises(ValueError, match="closed"):
        handle.run(lambda file: file.write(b"x"))
    assert not opened


def test_a_file_in_use_is_closed_by_its_user(tmp_path: Path) -> None:
    file = (tmp_path / "file").open("xb")
    handle = Handle(lambda: file)
    inside, go = threading.Event(), threading.Event()

    def slow(_: object) -> bool:
        inside.set()
        assert go.wait(LIMIT_S)
        return file.closed

    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(handle.run(slow)))
    thread.start()
    assert inside.wait(LIMIT_S)
    handle.close()  # returns at once
    assert not file.closed
    go.set()
    thread.join(LIMIT_S)
    assert found == [False]
    assert file.closed


def test_a_file_is_closed_after_an_error(tmp_path: Path) -> None:
    file = (tmp_path / "file").open("xb")
    handle = Handle(lambda: file)
    with pytest.raises(ZeroDivisionError):
        handle.run(lambda _: 1 // 0)
    assert not file.closed
    handle.close()
    assert file.closed
