"""The command line itself: addresses, help, what it imports."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.cli.admin.connection import addresses_of
from coordinator.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fed.example.org", "fed.example.org:8443"),
        ("fed.example.org:443", "fed.example.org:443"),
        ("192.0.2.1", "192.0.2.1:8443"),
        ("2001:db8::1", "[2001:db8::1]:8443"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
    ],
)
def test_addresses_get_their_usual_ports(text: str, expected: str) -> None:
    assert addresses_of(text, None).members == expected


@pytest.mark.parametrize("text", ["", "host:port", ":443"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError):
        addresses_of(text, None)


def test_every_command_has_help_with_an_example() -> None:
    groups = {
        "tokens": ("create", "list", "revoke"),
        "sites": ("list", "show", "approve", "revoke"),
        "members": ("list", "show", "approve", "revoke"),
        "membership": ("show", "prepare", "publish", "sign"),
        "runs": ("start", "list", "show", "watch", "pause", "resume", "abort"),
        "rounds": ("list", "show"),
        "models": ("list", "show", "promote", "export"),
        "policy": ("show",),
        "privacy": ("report", "export", "verify"),
        "audit": ("list", "export", "verify"),
        "consortium": ("init", "show", "certify"),
    }
    for group, names in groups.items():
        for name in names:
            said = _help(group, name)
            assert f"Example: fedmepd-admin {group} {name}" in " ".join(said.split()), (group, name)


def _help(*words: str) -> str:
    from coordinator.cli.admin import main
    from tests.coordinator.served import command

    said = command(main, *words, "--help")
    assert said.code == 0
    return said.out


def test_the_passphrase_is_never_an_argument() -> None:
    assert "passphrase" not in {
        word.lstrip("-") for word in _help("consortium", "init").split() if word.startswith("--")
    }


def test_a_command_that_imports_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; import coordinator.cli.main, coordinator.cli.admin.app, coordinator.cli.admin.ceremony, "
        "coordinator.cli.admin.exporting, coordinator.registry, coordinator.admin, coordinator.enrolment; "
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
