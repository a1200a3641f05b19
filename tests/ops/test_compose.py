"""The compose files: valid, hardened, without secrets, and made of commands and keys that the products have."""

from __future__ import annotations

import json
import os
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.command_lines import parse
from tests.ops.tools_at_hand import OPS, ROOT, program, run, with_tools

COMPOSE = OPS / "compose"
FILES = ("compose.yaml", "agent.yaml", "agent.cuda.yaml")
DIGEST = f"sha256:{'0' * 64}"
_VALIDATE = """\
import json, sys
from compose_spec import PyCompose
said = []
for text in json.load(sys.stdin):
    try:
        PyCompose.from_yaml(text).validate()
        said.append("")
    except ValueError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def interpolated(text: str, environment: dict[str, str]) -> str:
    """Put variables in as compose does: with defaults, and a failure where one is required."""

    def value(found: re.Match[str]) -> str:
        name, operator, rest = found.groups()
        given = environment.get(name, "")
        if not given and operator == ":?":
            raise KeyError(name)
        return given or (rest if operator == ":-" else "")

    return re.sub(r"\$\{(\w+)(?:(:[?-])([^}]*))?\}", value, text)


def required(name: str) -> set[str]:
    return set(re.findall(r"\$\{(\w+):\?", (COMPOSE / name).read_text()))


@cache
def services(name: str) -> dict[str, Any]:
    values = {each: DIGEST if each.endswith("DIGEST") else "/data" for each in required(name)}
    found: dict[str, Any] = yaml.safe_load(interpolated((COMPOSE / name).read_text(), values))
    return found


def every_service() -> list[Any]:
    whole = ("compose.yaml", "agent.yaml")
    return [pytest.param(name, each, id=each) for name in whole for each in services(name)["services"]]


def test_files_are_valid_by_the_compose_specification_and_a_wrong_key_is_not() -> None:
    texts = [yaml.safe_dump(services(name)) for name in FILES]  # merge keys resolved
    *said, wrong = json.loads(with_tools(_VALIDATE, [*texts, "services: {a: {image: x, restrat: always}}"]))
    assert said == ["", "", ""]
    assert "restrat" in wrong


def test_every_required_variable_is_in_the_example_of_the_environment() -> None:
    listed = re.findall(r"(?m)^(\w+)=", (COMPOSE / ".env.example").read_text())
    assert set().union(*map(required, FILES)) <= set(listed)


@pytest.mark.parametrize(("name", "service"), every_service())
def test_a_service_is_hardened(name: str, service: str) -> None:
    found = services(name)["services"][service]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in found
    assert found["healthcheck"]
    assert found.get("profiles", []) == {"adopt": ["setup"], "alertmanager": ["alerts"]}.get(service, [])
    if service == "adopt":
        assert found["network_mode"] == "none"
    else:
        assert "cap_add" not in found
        assert int(found["user"].partition(":")[0]) > 0


@pytest.mark.parametrize(("name", "service"), every_service())
def test_an_image_is_built_here_or_pinned_by_digest(name: str, service: str) -> None:
    found = services(name)["services"][service]
    assert "build" in found or found["image"].endswith(f"@{DIGEST}")
    if "build" in found:
        assert (COMPOSE / found["build"]["context"] / found["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize(("name", "service"), every_service())
def test_secrets_are_files(name: str, service: str) -> None:
    file = services(name)
    found = file["services"][service]
    for key, value in found.get("environment", {}).items():
        if re.search(r"PASSWORD|PASSPHRASE|TOKEN", key):
            assert key.endswith("_FILE")
            assert value.removeprefix("/run/secrets/") in found["secrets"]
        assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), "a password in a URL"
    assert set(found.get("secrets", [])) <= set(file["secrets"])
    assert all(each["file"].startswith("./secrets/") for each in file["secrets"].values())


def test_only_the_coordinators_ports_are_open_to_others() -> None:
    for name in ("compose.yaml", "agent.yaml"):
        for service, found in services(name)["services"].items():
            open_to_others = [port for port in found.get("ports", []) if not port.startswith("127.0.0.1:")]
            assert open_to_others == (["8443:8443", "8444:8444"] if service == "coordinator" else [])
    networks = services("compose.yaml")
    assert networks["networks"]["database"]["internal"] is True
    assert networks["services"]["postgres"]["networks"] == ["database"]


@pytest.mark.parametrize(("name", "service"), every_service())
def test_what_is_mounted_exists(name: str, service: str) -> None:
    file = services(name)
    for mount in file["services"][service].get("volumes", []):
        source, _, rest = mount.partition(":")
        if source.startswith("."):
            assert rest.endswith(":ro")
            assert (COMPOSE / source).exists() or (service, source) == ("adopt", "./coordinator")
        elif not source.startswith("/"):
            assert source in file["volumes"]


@pytest.mark.parametrize(("name", "service"), [("compose.yaml", "coordinator"), ("agent.yaml", "agent")])
def test_health_checks_of_our_services_are_commands_that_exist(name: str, service: str) -> None:
    kind, *words = services(name)["services"][service]["healthcheck"]["test"]
    assert kind == "CMD"
    assert words == ["port-open", "9464", "/readyz"] or "config" in parse(words)


def test_the_configurations_are_those_of_the_products() -> None:
    from coordinator.config import load_config as coordinator_config
    from site_agent.config import load_config as agent_config
    from site_agent.policy_file import Policy

    environment = services("compose.yaml")["services"]["coordinator"]["environment"]
    coordinator = coordinator_config(COMPOSE / "coordinator.toml", environment)
    assert coordinator.database_url == environment["FEDMEPD_DATABASE_URL"]
    assert coordinator.coordinator.data.is_relative_to("/var/lib/fedmepd")
    assert coordinator.coordinator.listen.endswith(":8443")
    assert coordinator.metrics.listen.endswith(":9464")
    agent = agent_config(COMPOSE / "agent.toml")
    assert services("agent.yaml")["services"]["agent"]["ports"] == ["127.0.0.1:9465:9465"]
    assert agent.metrics.listen.endswith(":9465")
    assert agent.data.is_relative_to("/var/lib/fedmepd")
    assert Policy.load(COMPOSE / "policy.toml") == Policy()


def test_prometheus_takes_its_configuration_with_the_rules_that_are_mounted(tmp_path: Path) -> None:
    mounts = [each.split(":") for each in services("compose.yaml")["services"]["prometheus"]["volumes"]]
    (rules,) = [source for source, inside, *_ in mounts if inside == "/etc/prometheus/rules"]
    (tmp_path / "rules").symlink_to((COMPOSE / rules).resolve())
    (tmp_path / "prometheus.yml").write_text((COMPOSE / "prometheus.yml").read_text())
    done = run(program("promtool", "apt-get install prometheus"), "check", "config", tmp_path / "prometheus.yml")
    assert done.returncode == 0, done.stderr
    assert "SUCCESS: 2 rule files found" in done.stdout


def test_alerts_reach_an_alertmanager_that_is_there_only_if_it_is_wanted() -> None:
    """Found by its name, so that Prometheus asks for none while it is not there; nothing of it is required."""
    (found,) = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())["alerting"]["alertmanagers"]
    assert found == {"dns_sd_configs": [{"names": ["alertmanager"], "type": "A", "port": 9093}]}
    service = services("compose.yaml")["services"]["alertmanager"]
    assert service["networks"] == services("compose.yaml")["services"]["prometheus"]["networks"]
    assert service["ports"] == ["127.0.0.1:9093:9093"]
    assert "ALERTMANAGER_DIGEST" not in required("compose.yaml")
    assert "ALERTMANAGER_DIGEST=\n" in (COMPOSE / ".env.example").read_text()


def test_the_alertmanagers_configuration_routes_every_severity_to_a_receiver_that_it_has() -> None:
    config = yaml.safe_load((COMPOSE / "alertmanager.yml").read_text())
    routes = [config["route"], *config["route"]["routes"]]
    assert {route["receiver"] for route in routes} == {each["name"] for each in config["receivers"]}
    assert config["route"]["receiver"] == "people"
    assert [route["matchers"] for route in routes[1:]] == [['severity="info"']]
    tool = shutil.which("amtool")
    if tool is not None:
        assert run(tool, "check-config", COMPOSE / "alertmanager.yml").returncode == 0


def test_the_status_page_is_published_on_the_host_alone() -> None:
    from coordinator.config import load_config

    assert load_config(COMPOSE / "coordinator.toml", {}).status_page.listen == "0.0.0.0:8445"
    assert "127.0.0.1:8445:8445" in services("compose.yaml")["services"]["coordinator"]["ports"]


def test_the_names_of_the_steps_for_backups_are_those_of_the_files() -> None:
    """What is in volumes and secrets is reached by name: a renamed one would make a backup of nothing."""
    steps = (OPS / "README.md").read_text()
    assert {"coordinator", "postgres", "adopt"} <= set(services("compose.yaml")["services"])
    assert "postgres-password" in services("compose.yaml")["services"]["postgres"]["secrets"]
    assert steps.count("/run/secrets/postgres-password") == 2
    found = services("compose.yaml")["services"]["postgres"]["environment"]
    assert f"pg_dump -U {found['POSTGRES_USER']} --format custom {found['POSTGRES_DB']}'" in steps
    assert "`/var/lib/fedmepd/coordinator` in the volume `coordinator-data`" in steps
    assert "coordinator-data:/var/lib/fedmepd" in services("compose.yaml")["services"]["coordinator"]["volumes"]
    assert "INITIALISED=./restored/coordinator" in steps
    assert "${INITIALISED:-" in (COMPOSE / "compose.yaml").read_text()


def test_prometheus_scrapes_the_coordinator_over_their_common_network() -> None:
    jobs = {
        each["job_name"]: each for each in yaml.safe_load((COMPOSE / "prometheus.yml").read_text())["scrape_configs"]
    }
    assert jobs["fedmepd-coordinator"]["static_configs"] == [{"targets": ["coordinator:9464"]}]
    found = services("compose.yaml")["services"]
    assert "monitoring" in set(found["coordinator"]["networks"]) & set(found["prometheus"]["networks"])
    assert not any("9464" in port for port in found["coordinator"]["ports"])


def test_grafana_is_provisioned_with_the_prometheus_of_the_file_and_the_dashboards() -> None:
    mounts = {
        inside: (COMPOSE / source).resolve()
        for source, inside, *_ in (
            each.split(":") for each in services("compose.yaml")["services"]["grafana"]["volumes"]
        )
    }
    provisioning = {each.name: each for each in (OPS / "grafana" / "provisioning").iterdir()}
    for name, folder in provisioning.items():
        assert mounts[f"/etc/grafana/provisioning/{name}"] == folder
    (source,) = yaml.safe_load((provisioning["datasources"] / "fedmepd.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services("compose.yaml")["services"]
    (provider,) = yaml.safe_load((provisioning["dashboards"] / "fedmepd.yaml").read_text())["providers"]
    assert mounts[provider["options"]["path"]] == OPS / "grafana" / "dashboards"


def _adopt(folder: Path) -> Any:
    """Run what the service `adopt` runs, on folders of the test, with a chown that only notes what it was asked."""
    (folder / "bin").mkdir(exist_ok=True)
    chown = folder / "bin" / "chown"
    chown.write_text(f'#!/bin/sh\necho "$@" >> {folder}/owners\n')
    chown.chmod(0o755)
    (script,) = services("compose.yaml")["services"]["adopt"]["command"]
    script = script.replace("/var/lib/fedmepd", str(folder / "volume")).replace("/from", str(folder / "from"))
    return run("sh", "-euc", script, env={"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"})


def test_a_coordinator_is_adopted_once_with_the_modes_of_its_keys(tmp_path: Path) -> None:
    (tmp_path / "from" / "identity").mkdir(parents=True)
    (tmp_path / "volume").mkdir()
    key = tmp_path / "from" / "identity" / "tls-key.pem"
    key.write_text("key")
    key.chmod(0o600)
    (tmp_path / "from" / "coordinator.toml").write_text("")
    assert _adopt(tmp_path).returncode == 0
    made = tmp_path / "volume" / "coordinator"
    assert (made / "identity" / "tls-key.pem").stat().st_mode & 0o777 == 0o600
    assert made.stat().st_mode & 0o777 == 0o700
    assert not (made / "coordinator.toml").exists()
    assert (tmp_path / "owners").read_text() == f"-R 10001:10001 {tmp_path}/volume/.coordinator\n"
    again = _adopt(tmp_path)
    assert (again.returncode, "already" in again.stderr) == (1, True)


def test_what_a_host_adds_stays_out_of_the_repository() -> None:
    for name in (".env", "secrets/key-passphrase", "coordinator/identity/tls-key.pem"):
        assert run("git", "check-ignore", "--quiet", f"ops/compose/{name}", cwd=ROOT).returncode == 0
