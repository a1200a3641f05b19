from __future__ import annotations

import pytest
import structlog

from security import sealed
from tests.site_agent.agent_at_hand import close_ledgers


@pytest.fixture(autouse=True)
def _cheap_passphrases(monkeypatch):
    monkeypatch.setattr(sealed, "_LOG2_COST", 10)


@pytest.fixture(autouse=True)
def _own_logging():
    yield
    structlog.reset_defaults()  # commands bind logs to a stderr that ends with their test


@pytest.fixture(autouse=True)
def _own_ledgers():
    yield
    close_ledgers()
