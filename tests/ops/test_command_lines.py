"""The parser that other tests of deployment files rely on refuses what the products would refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ops.command_lines import parse


def test_options_and_values_of_a_command_are_found() -> None:
    found = parse(["/opt/x/with-secrets", "/opt/x/fedmepd-agent", "run", "--config", "/etc/fedmepd/agent.toml"])
    assert found["config"] == Path("/etc/fedmepd/agent.toml")
    assert parse(["fedmepd-coordinator", "config", "check", "--config", "a.toml"])["config"] == Path("a.toml")


@pytest.mark.parametrize(
    "words",
    [
        ["fedmepd-agent", "run", "--configuration", "agent.toml"],
        ["fedmepd-agent", "walk", "--config", "agent.toml"],
        ["fedmepd-coordinator", "serve", "coordinator.toml"],
        ["fedmepd-coordinator", "token", "--data", "/srv", "--role", "emperor", "alice"],
        ["fedmepd-server", "run"],
    ],
)
def test_a_command_line_that_the_product_would_refuse_is_refused(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|unexpected|invalid|no program|emperor"):
        parse(words)
