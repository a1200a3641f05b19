"""The systemd units: accepted by systemd, hardened, and made of commands, keys and folders that the products have."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from tests.ops.command_lines import parse
from tests.ops.tools_at_hand import OPS, ROOT, program, run

SYSTEMD = OPS / "systemd"
SERVICES = ("agent", "coordinator")
MOST_EXPOSED = 2.0  # of 10, as `systemd-analyze security` reckons; 1.5 when this was written
_APT = "apt-get install systemd"


def settings(name: str) -> list[tuple[str, str]]:
    """Settings of a unit file in order."""
    lines = (SYSTEMD / name).read_text().splitlines()
    return [(key, value) for key, found, value in (line.partition("=") for line in lines if line[:1] != "#") if found]


def setting(service: str, key: str) -> str:
    (value,) = [value for name, value in settings(f"fedmepd-{service}.service") if name == key]
    return value


def placed(folder: Path, service: str, *drop_ins: str) -> Path:
    """Lay a unit with drop-ins where systemd looks, with programs that this machine has."""
    unit = folder / f"fedmepd-{service}.service"
    unit.write_text((SYSTEMD / unit.name).read_text().replace("/opt/fedmepd/bin/with-secrets", "/bin/true"))
    for name in drop_ins:
        target = folder / f"{unit.name}.d" / name
        target.parent.mkdir(exist_ok=True)
        target.write_text((SYSTEMD / "fedmepd-agent.service.d" / name).read_text())
    return unit


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("drop_ins", [(), ("cuda.conf", "cohort.conf")], ids=["plain", "drop-ins"])
def test_systemd_takes_the_unit_without_a_warning(tmp_path: Path, service: str, drop_ins: tuple[str, ...]) -> None:
    done = run(program("systemd-analyze", _APT), "verify", "--man=no", placed(tmp_path, service, *drop_ins))
    said = [line for line in done.stderr.splitlines() if "fedmepd" in line or str(tmp_path) in line]
    assert (done.returncode, said) == (0, [])


def test_systemd_warns_of_an_unknown_setting(tmp_path: Path) -> None:
    unit = placed(tmp_path, "agent")
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHomes="))
    assert "ProtectHomes" in run(program("systemd-analyze", _APT), "verify", "--man=no", unit).stderr


@pytest.mark.parametrize("service", SERVICES)
def test_the_unit_is_little_exposed(tmp_path: Path, service: str) -> None:
    done = run(program("systemd-analyze", _APT), "security", "--offline=yes", "--no-pager", placed(tmp_path, service))
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= MOST_EXPOSED


@pytest.mark.parametrize("service", SERVICES)
def test_what_the_unit_starts_are_commands_of_the_product(service: str) -> None:
    commands = [shlex.split(value) for key, value in settings(f"fedmepd-{service}.service") if key.startswith("Exec")]
    assert len(commands) == 2
    for words in commands:
        assert words[0] == "/opt/fedmepd/bin/with-secrets"
        assert words[1].startswith("/opt/fedmepd/bin/")
        found = parse(words)
        assert found.get("config", found.get("file")) == Path(f"/etc/fedmepd/{service}.toml")


@pytest.mark.parametrize("service", SERVICES)
def test_what_the_unit_names_below_opt_is_what_the_steps_install(service: str) -> None:
    """A document or a program that no step puts there would be a dead end."""
    named = set(re.findall(r"/opt/fedmepd[\w./-]*", (SYSTEMD / f"fedmepd-{service}.service").read_text()))
    assert named == {f"/opt/fedmepd/bin/{name}" for name in ("with-secrets", f"fedmepd-{service}")}
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert f"fedmepd-{service}" in scripts
    assert "install -m 0755 ops/containers/with-secrets" in (OPS / "README.md").read_text()


@pytest.mark.parametrize("service", SERVICES)
def test_the_unit_stops_in_order_and_comes_back_after_a_fault(service: str) -> None:
    assert setting(service, "KillMode") == "mixed"
    assert int(setting(service, "TimeoutStopSec")) >= 60
    assert (setting(service, "Restart"), setting(service, "StartLimitIntervalSec")) == ("on-failure", "0")


@pytest.mark.parametrize("service", SERVICES)
def test_the_passphrase_is_a_credential_and_stands_in_no_setting(service: str) -> None:
    from site_agent.config import PASSPHRASE_VARIABLE

    name, path = setting(service, "LoadCredential").split(":")
    assert name == PASSPHRASE_VARIABLE
    assert path.startswith("/etc/fedmepd/secrets/")
    assert not any("FEDMEPD_" in value for key, value in settings(f"fedmepd-{service}.service") if key == "Environment")


@pytest.mark.parametrize("service", SERVICES)
def test_the_configuration_is_the_products_and_keeps_data_where_the_unit_may_write(service: str) -> None:
    state = Path("/var/lib") / setting(service, "StateDirectory")
    if service == "agent":
        from site_agent.config import load_config as agent_config

        data = agent_config(SYSTEMD / "agent.toml").data
    else:
        from coordinator.config import load_config as coordinator_config

        config = coordinator_config(SYSTEMD / "coordinator.toml", {})
        data = config.coordinator.data
        assert Path(config.database_url.removeprefix("sqlite:///")).is_relative_to(state)
    assert data.is_relative_to(state)


def _as_service(folder: Path, *words: str, script: Path = SYSTEMD / "as-service") -> list[str]:
    """Return what `as-service` hands to systemd-run."""
    said = {
        "systemd-run": "printf '%s\\n' \"$@\"",
        "systemctl": 'test "$2" != --property=BindReadOnlyPaths || echo /a:/b',
    }
    for name, text in said.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    done = run(script, *words, env={"PATH": f"{folder}:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ("agent", ["enroll", "--config", "/etc/fedmepd/agent.toml", "--token", "-"]),
        ("coordinator", ["token", "--data", "/etc/fedmepd", "--role", "admin", "alice"]),
    ],
)
def test_a_command_by_hand_runs_as_the_service_does(tmp_path: Path, service: str, words: list[str]) -> None:
    handed = _as_service(tmp_path, service, *words)
    begin = handed.index("/opt/fedmepd/bin/with-secrets")
    assert handed[begin + 1] == f"/opt/fedmepd/bin/fedmepd-{service}"
    assert parse(handed[begin:])
    properties = [word.removeprefix("--property=") for word in handed if word.startswith("--property=")]
    unit = settings(f"fedmepd-{service}.service")
    for text in properties:
        key, _, value = text.partition("=")
        assert (key, value) in unit or key in {"WorkingDirectory", "Environment", "BindReadOnlyPaths"}, text
    assert "BindReadOnlyPaths=/a:/b" in properties, "the patients of a drop-in"
    written = tmp_path / "by-hand.service"
    written.write_text("\n".join(["[Service]", "ExecStart=/bin/true", *properties, ""]))
    done = run(program("systemd-analyze", _APT), "verify", "--man=no", written)
    assert (done.returncode, "by-hand" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize(
    ("service", "file", "name"),
    [
        ("agent", "backup-passphrase", "FEDMEPD_BACKUP_PASSPHRASE"),
        ("coordinator", "database-url", "FEDMEPD_DATABASE_URL"),
    ],
)
def test_a_command_by_hand_gets_the_secrets_that_it_may_need_where_there_are_such(
    tmp_path: Path, service: str, file: str, name: str
) -> None:
    script = tmp_path / "as-service"
    script.write_text((SYSTEMD / "as-service").read_text().replace("/etc/fedmepd/secrets", str(tmp_path)))
    script.chmod(0o755)
    wanted = f"--property=LoadCredential={name}:{tmp_path}/{file}"
    assert wanted not in _as_service(tmp_path, service, "doctor", script=script)
    (tmp_path / file).touch()
    assert wanted in _as_service(tmp_path, service, "doctor", script=script)


@pytest.mark.parametrize("words", [[], ["agent"], ["admin", "run"]])
def test_a_command_by_hand_needs_a_service_and_a_command(words: list[str]) -> None:
    done = run(SYSTEMD / "as-service", *words)
    assert (done.returncode, "usage" in done.stderr) == (2, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes users and folders below a folder of its own, which needs root")
def test_users_and_folders_are_made(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    assert run(program("systemd-sysusers", _APT), f"--root={root}", SYSTEMD / "sysusers.conf").returncode == 0
    users = {line.split(":")[0]: line.split(":") for line in (root / "etc" / "passwd").read_text().splitlines()}
    for service in SERVICES:
        user = users[setting(service, "User")]
        assert int(user[2]) > 0
        assert user[5:] == [f"/var/lib/{setting(service, 'StateDirectory')}", "/usr/sbin/nologin"]
    made = run(program("systemd-tmpfiles", _APT), "--create", f"--root={root}", SYSTEMD / "tmpfiles.conf")
    assert made.returncode == 0, made.stderr
    assert (root / "etc" / "fedmepd" / "secrets").stat().st_mode & 0o777 == 0o700


def test_the_steps_take_any_python_that_the_product_takes() -> None:
    steps = (OPS / "README.md").read_text()
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert f"Python {oldest} or newer" in steps
    assert re.findall(r"(?m)^(\S+) -m venv", steps) == ["python3"]


def test_where_things_are_is_told_as_the_configurations_have_it() -> None:
    from coordinator.config import load_config as coordinator_config
    from site_agent.config import load_config as agent_config

    told = dict(re.findall(r"(?m)^\| (coordinator|agent)'s folder[^|]*\|[^|]*(\|.*)$", (OPS / "README.md").read_text()))
    for folder, columns in (("systemd", 1), ("compose", 2)):
        data = {
            "coordinator": coordinator_config(OPS / folder / "coordinator.toml", {}).coordinator.data,
            "agent": agent_config(OPS / folder / "agent.toml").data,
        }
        for service in SERVICES:
            assert f"`{data[service]}`" in told[service].split("|")[columns]
