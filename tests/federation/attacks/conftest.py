from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_disk_is_that_slow(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)  # nobody pulls a plug here
