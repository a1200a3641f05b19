from __future__ import annotations

import pytest

from security import sealed


@pytest.fixture(autouse=True)
def _cheap_passphrases(monkeypatch):
    monkeypatch.setattr(sealed, "_LOG2_COST", 10)
