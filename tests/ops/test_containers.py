"""The container files: what they install, as whom they run, how secrets reach a process."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.ops.command_lines import parse
from tests.ops.tools_at_hand import OPS, ROOT, program, run

CONTAINERS = OPS / "containers"
CONTAINERFILE = CONTAINERS / "Containerfile"
WITH_SECRETS = CONTAINERS / "with-secrets"
SHOW = ["sh", "-c", 'printf "%s|%s" "${FEDMEPD_KEY_PASSPHRASE-none}" "${FEDMEPD_KEY_PASSPHRASE_FILE-none}"']


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's instructions, with continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", CONTAINERFILE.read_text()).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions by stage."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, rest in instructions():
        if name == "FROM":
            found[rest.split()[-1]] = []
        elif found:
            found[list(found)[-1]].append((name, rest))
    return found


def with_secrets(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(WITH_SECRETS, *command, env={"PATH": os.environ["PATH"], **environment})


def test_hadolint_finds_nothing() -> None:
    done = run(program("hadolint"), "--no-color", CONTAINERFILE)
    assert (done.returncode, done.stdout) == (0, "")


def test_base_images_are_pinned_by_a_digest_that_has_no_default() -> None:
    bases = [rest for name, rest in instructions() if name == "FROM"]
    named = {rest.split()[-1] for rest in bases}
    outside = [rest.split()[0] for rest in bases if rest.split()[0] not in named]
    assert outside
    assert all(image.endswith("@${PYTHON_DIGEST}") for image in outside)
    assert ("ARG", "PYTHON_DIGEST") in instructions()


def test_services_run_without_rights_and_write_to_declared_volumes_only() -> None:
    base = dict(stages()["base"])
    assert base["USER"] == "${UID}:${GID}"
    assert ("ARG", "UID=10001") in stages()["base"]
    assert json.loads(base["VOLUME"]) == ["/var/lib/fedmepd", "/tmp"]
    for service in ("agent", "coordinator"):
        assert "USER" not in dict(stages()[service])
        assert "RUN" not in dict(stages()[service])


@pytest.mark.parametrize("service", ["agent", "coordinator"])
def test_what_a_container_starts_and_is_asked_are_commands_of_the_product(service: str) -> None:
    stage = dict(stages()[service])
    assert parse(json.loads(stage["ENTRYPOINT"]) + json.loads(stage["CMD"]))["config"] == Path(
        f"/etc/fedmepd/{service}.toml"
    )
    check = json.loads(stage["HEALTHCHECK"].partition("CMD ")[2])
    assert check == ["port-open", "8443"] or "config" in parse(check)


def test_the_image_holds_every_package_and_nothing_beside_what_is_let_in() -> None:
    copied = [rest.split()[:-1] for name, rest in stages()["build"] if name == "COPY"]
    sources = {part for parts in copied for part in parts if not part.startswith("--")}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(packages["packages"]) <= sources
    let_in = {
        line[1:] for line in (CONTAINERS / "Containerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    for source in sources | {"ops/containers/with-secrets", "ops/containers/port-open"}:
        assert (ROOT / source).exists()
        assert source in let_in or str(Path(source).parent) in let_in, f"{source} is kept out of the build"


def test_dependencies_are_installed_as_make_installs_them() -> None:
    steps = " ".join(rest for name, rest in stages()["build"] if name == "RUN")
    assert "--require-hashes --no-deps -r requirements/lock.txt" in steps
    assert steps.count("-r requirements/torch.txt") == 2
    assert "--no-deps --no-build-isolation ." in steps


def test_nothing_secret_is_baked_in() -> None:
    words = re.compile(r"(?i)passphrase|password|token|secret|api_?key")
    named = [rest for name, rest in instructions() if name in {"ARG", "ENV"} and words.search(rest)]
    assert named == []


def test_only_what_development_needs_is_taken_out_of_the_image() -> None:
    found = run(sys.executable, "-P", CONTAINERS / "unneeded.py", "fedmepd").stdout.split()
    assert {"mypy", "pytest", "pip", "ruff", "hatchling"} <= set(found)
    assert not {"fedmepd", "torch", "numpy", "psycopg-binary", "filelock", "typer"} & set(found)


def test_a_secret_comes_from_the_first_line_of_the_file_that_is_named(tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    for text in ("four words and 'a $quote`\n", "four words and 'a $quote`", "four words and 'a $quote`\nmore\n"):
        secret.write_text(text)
        done = with_secrets(*SHOW, FEDMEPD_KEY_PASSPHRASE_FILE=str(secret))
        assert (done.returncode, done.stdout) == (0, "four words and 'a $quote`|none")


def test_a_secret_comes_from_a_credential_of_systemd(tmp_path: Path) -> None:
    (tmp_path / "FEDMEPD_KEY_PASSPHRASE").write_text("from systemd\n")
    done = with_secrets(*SHOW, CREDENTIALS_DIRECTORY=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "from systemd|none")


def test_a_command_without_secrets_keeps_its_environment() -> None:
    assert with_secrets(*SHOW).stdout == "none|none"
    assert with_secrets(*SHOW, FEDMEPD_KEY_PASSPHRASE="given").stdout == "given|none"


@pytest.mark.parametrize("content", [None, "", "\n", "\nsecond\n"])
def test_a_secret_that_is_missing_or_empty_ends_it_before_the_command_runs(tmp_path: Path, content: str | None) -> None:
    secret = tmp_path / "passphrase"
    if content is not None:
        secret.write_text(content)
    done = with_secrets("echo", "started", FEDMEPD_KEY_PASSPHRASE_FILE=str(secret))
    assert (done.returncode, done.stdout) == (2, "")
    assert "FEDMEPD_KEY_PASSPHRASE" in done.stderr


def test_every_secret_that_the_products_read_can_come_from_a_file() -> None:
    from coordinator.cli.passphrases import CONSORTIUM_VARIABLE, KEY_VARIABLE
    from coordinator.config import DATABASE_VARIABLE
    from site_agent.cli.backup import VARIABLE as BACKUP_VARIABLE
    from site_agent.config import PASSPHRASE_VARIABLE

    listed = re.search(r"for name in ([^;]*); do", WITH_SECRETS.read_text().replace("\\\n", " "))
    assert listed is not None
    read = {CONSORTIUM_VARIABLE, KEY_VARIABLE, DATABASE_VARIABLE, PASSPHRASE_VARIABLE, BACKUP_VARIABLE}
    assert read | {"FEDMEPD_TOKEN"} <= set(listed[1].split())


def test_a_port_is_open_or_not() -> None:
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert run(CONTAINERS / "port-open", port, env=environment).returncode == 0
    assert run(CONTAINERS / "port-open", port, env=environment).returncode != 0


def test_a_service_is_healthy_while_it_says_so() -> None:
    from prometheus_client import CollectorRegistry

    from protos.exposition import Check, Exposition

    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    checks = [Check(name="database", ok=True)]
    with Exposition("127.0.0.1:0", CollectorRegistry(), alive=lambda: True, checks=lambda: checks) as served:
        port = served.address.rpartition(":")[2]
        assert run(CONTAINERS / "port-open", port, "/readyz", env=environment).returncode == 0
        checks[0] = Check(name="database", ok=False, text="gone")
        assert run(CONTAINERS / "port-open", port, "/readyz", env=environment).returncode != 0
        assert run(CONTAINERS / "port-open", port, "/healthz", env=environment).returncode == 0
