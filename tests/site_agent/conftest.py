from __future__ import annotations

import pytest
import structlog

from security import sealed


@pytest.fixture(autouse=True)
def _cheap_passphrases(monkeypatch):
    monkeypatch.setattr(sealed, "_LOG2_COST", 10)


@pytest.fixture(autouse=True)
def _own_logging():
    yield
    structlog.reset_defaults()  # commands bind logs to a stderr that ends with their test
