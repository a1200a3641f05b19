"""The Helm charts: rendered by Helm, valid by Kubernetes' own schemas, hardened, and with configurations that load."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.command_lines import parse
from tests.ops.tools_at_hand import OPS, ROOT, program, run, with_tools

HELM = OPS / "helm"
CHARTS = ("agent", "coordinator")
OLDEST, NEWEST = "1.25", "1.37"  # of Kubernetes; the charts say from which on they work
_VALIDATE = """\
import json, sys
import kubernetes_validate
said = []
for version, document in json.load(sys.stdin):
    try:
        kubernetes_validate.validate(document, version, strict=True)
        said.append("")
    except kubernetes_validate.ValidationError as error:
        said.append(error.message)
print(json.dumps(said))
"""


def helm(command: str, chart: str, *options: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm on a chart; values that are given come from its input."""
    values = ("--values", str(HELM / f"{chart}.example.yaml")) + (() if given is None else ("--values", "-"))
    name = ("fed",) if command == "template" else ()
    return run(program("helm"), command, *name, HELM / f"fedmepd-{chart}", *values, *options, input=given)


@cache
def rendered(chart: str, given: str | None = None) -> dict[str, Any]:
    """Return the chart's objects by kind and name."""
    done = helm("template", chart, given=given)
    assert done.returncode == 0, done.stderr
    documents = [each for each in yaml.safe_load_all(done.stdout) if each]
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in documents}


def pod(chart: str, given: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = rendered(chart, given)["StatefulSet/fed"]["spec"]["template"]
    return found


def containers(chart: str) -> list[dict[str, Any]]:
    spec = pod(chart)["spec"]
    return [*spec["initContainers"], *spec["containers"]]


@pytest.mark.parametrize("chart", CHARTS)
def test_helm_finds_nothing_to_complain_about(chart: str) -> None:
    done = helm("lint", chart, "--strict", "--quiet")
    assert done.returncode == 0, done.stdout


def test_everything_rendered_is_valid_for_the_oldest_and_the_newest_kubernetes_and_a_wrong_field_is_not() -> None:
    opened = "{maintenance: true, statusPage: {enabled: true}, networkPolicy: {statusPageFrom: [{podSelector: {}}]}}"
    variants = (("agent", None), ("agent", "maintenance: true"), ("coordinator", None), ("coordinator", opened))
    documents = [each for chart, given in variants for each in rendered(chart, given).values()]
    wrong = {**documents[0], "specification": {}}
    cases = [(version, each) for version in (OLDEST, NEWEST) for each in [*documents, wrong]]
    said = json.loads(with_tools(_VALIDATE, cases))
    half = len(said) // 2
    assert said[: half - 1] + said[half:-1] == [""] * (2 * len(documents))
    assert "specification" in said[-1]


@pytest.mark.parametrize("chart", CHARTS)
def test_pods_run_without_rights(chart: str) -> None:
    spec = pod(chart)["spec"]
    assert spec["automountServiceAccountToken"] is False
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == 10001
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(chart):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["image"].partition("@")[2].startswith("sha256:")
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("chart", CHARTS)
def test_files_of_the_data_volume_are_not_opened_to_the_group(chart: str) -> None:
    """Keys that a group may read are refused: Kubernetes must leave the volume alone after its first mount."""
    assert pod(chart)["spec"]["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    config = rendered(chart)["ConfigMap/fed"]["data"][f"{chart}.toml"]
    assert f'data = "/var/lib/fedmepd/{chart}"' in config
    mounts = containers(chart)[-1]["volumeMounts"]
    assert {"name": "data", "mountPath": "/var/lib/fedmepd"} in mounts


@pytest.mark.parametrize("chart", CHARTS)
def test_mounts_have_volumes_and_the_patients_are_read_only(chart: str) -> None:
    found = rendered(chart)["StatefulSet/fed"]["spec"]
    volumes = {each["name"]: each for each in found["template"]["spec"]["volumes"]}
    claims = {each["metadata"]["name"] for each in found["volumeClaimTemplates"]}
    used = {mount["name"] for container in containers(chart) for mount in container["volumeMounts"]}
    assert used == set(volumes) | claims
    assert volumes["cohort"]["persistentVolumeClaim"]["readOnly"] is True


@pytest.mark.parametrize("chart", CHARTS)
def test_nothing_secret_is_in_an_object(chart: str) -> None:
    assert not any(name.startswith("Secret/") for name in rendered(chart))
    for container in containers(chart):
        for variable in container.get("env", []):
            assert variable["name"].endswith("_FILE")
            folder = Path(variable["value"]).parent
            assert any(mount["mountPath"] == str(folder) for mount in container["volumeMounts"])


@pytest.mark.parametrize("chart", CHARTS)
def test_what_a_pod_starts_and_is_asked_are_commands_of_the_product(chart: str) -> None:
    started = [each for each in containers(chart) if each["command"][0] == "with-secrets"]
    assert started
    for container in started:
        environment = {each["name"] for each in container["env"]}
        token = ["--token", "-"] if "FEDMEPD_TOKEN_FILE" in environment else []
        words = [*container["command"], *container["args"], *token]
        assert parse(words)["config"] == Path(f"/etc/fedmepd/{chart}.toml")


@pytest.mark.parametrize("chart", CHARTS)
def test_the_node_asks_whether_a_pod_is_well_at_the_port_of_its_metrics(chart: str) -> None:
    container = containers(chart)[-1]
    asked = {kind: container[kind]["httpGet"] for kind in container if kind.endswith("Probe")}
    well, ready = {"path": "/healthz", "port": "metrics"}, {"path": "/readyz", "port": "metrics"}
    assert asked == {"startupProbe": well, "livenessProbe": well, "readinessProbe": ready}
    patience = container["livenessProbe"]["periodSeconds"] * container["livenessProbe"]["failureThreshold"]
    assert patience >= 300


@pytest.mark.parametrize(("chart", "port"), [("agent", 9465), ("coordinator", 9464)])
def test_metrics_are_for_the_namespace_that_watches_and_behind_no_load_balancer(chart: str, port: int) -> None:
    found = rendered(chart)
    assert f'[metrics]\nlisten = "0.0.0.0:{port}"' in found["ConfigMap/fed"]["data"][f"{chart}.toml"]
    assert {"name": "metrics", "containerPort": port} in containers(chart)[-1]["ports"]
    (service,) = [
        each for each in found.values() if each["kind"] == "Service" and "metrics" in str(each["spec"]["ports"])
    ]
    assert service["spec"]["clusterIP"] == "None"
    (rule,) = [
        each
        for each in found["NetworkPolicy/fed"]["spec"]["ingress"]
        if each["ports"] == [{"port": "metrics", "protocol": "TCP"}]
    ]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


@pytest.mark.parametrize("chart", CHARTS)
def test_nobody_watches_where_nobody_may(chart: str) -> None:
    ingress = rendered(chart, "networkPolicy: {metricsFrom: []}")["NetworkPolicy/fed"]["spec"]["ingress"]
    assert not [each for each in ingress if "metrics" in str(each["ports"])]


@pytest.mark.parametrize("chart", CHARTS)
def test_a_monitor_for_prometheus_operator_is_made_where_it_is_wanted(chart: str) -> None:
    assert not any(name.startswith("ServiceMonitor/") for name in rendered(chart))
    found = rendered(chart, "metrics: {serviceMonitor: {enabled: true, labels: {release: prometheus}}}")
    monitor = found["ServiceMonitor/fed"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["endpoints"] == [{"port": "metrics", "path": "/metrics", "interval": "30s"}]
    chosen = [
        each
        for each in found.values()
        if each["kind"] == "Service"
        and monitor["spec"]["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
        and any(port["name"] == "metrics" for port in each["spec"]["ports"])
    ]
    assert len(chosen) == 1
    assert (
        chosen[0]["metadata"]["labels"][monitor["spec"]["jobLabel"]] == f"fedmepd-{chart}"
    )  # the rules' name of the job


@pytest.mark.parametrize("chart", CHARTS)
def test_rules_for_prometheus_operator_are_those_of_the_files_and_complete(chart: str, tmp_path: Path) -> None:
    assert not any(name.startswith("PrometheusRule/") for name in rendered(chart))
    made = rendered(chart, "metrics: {prometheusRule: {enabled: true, labels: {release: prometheus}}}")
    rule = made["PrometheusRule/fed"]
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    recording, *alerts = rule["spec"]["groups"]
    (recorded,) = yaml.safe_load((OPS / "prometheus" / "recording.yml").read_text())["groups"]
    own = [each for each in recorded["rules"] if each["record"].startswith(f"fedmepd_{chart}:")]
    assert own
    assert recording == {**recorded, "rules": own}
    assert alerts == yaml.safe_load((OPS / "prometheus" / f"alerts-{chart}.yml").read_text())["groups"]
    asked = set(re.findall(r"fedmepd_\w+:\w+:\w+", json.dumps(alerts)))
    assert asked <= {each["record"] for each in own}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rule["spec"]))
    done = run(program("promtool", "apt-get install prometheus"), "check", "rules", tmp_path / "rules.yml")
    assert done.returncode == 0, done.stderr


def test_recorded_series_are_in_one_chart_each() -> None:
    (recorded,) = yaml.safe_load((OPS / "prometheus" / "recording.yml").read_text())["groups"]
    prefixes = {each["record"].partition(":")[0] for each in recorded["rules"]}
    assert prefixes == {f"fedmepd_{chart}" for chart in CHARTS}


@pytest.mark.parametrize("chart", CHARTS)
def test_a_pod_that_is_not_ready_is_replaced_by_an_upgrade_and_there_are_never_two(chart: str) -> None:
    spec = rendered(chart)["StatefulSet/fed"]["spec"]
    assert (spec["podManagementPolicy"], spec["replicas"]) == ("Parallel", 1)


def test_the_status_page_stays_within_the_pod_unless_it_is_opened() -> None:
    found = rendered("coordinator")
    assert '[status_page]\nlisten = "127.0.0.1:8445"' in found["ConfigMap/fed"]["data"]["coordinator.toml"]
    assert "status-page" not in json.dumps(list(found.values()))


def test_an_opened_status_page_has_a_service_of_its_own_for_those_who_may_reach_it() -> None:
    given = "{statusPage: {enabled: true}, networkPolicy: {statusPageFrom: [{ipBlock: {cidr: 10.0.0.0/8}}]}}"
    found = rendered("coordinator", given)
    assert '[status_page]\nlisten = "0.0.0.0:8445"' in found["ConfigMap/fed"]["data"]["coordinator.toml"]
    (container,) = found["StatefulSet/fed"]["spec"]["template"]["spec"]["containers"]
    assert {"name": "status-page", "containerPort": 8445} in container["ports"]
    offered = {
        name: [port["targetPort"] for port in each["spec"]["ports"]]
        for name, each in found.items()
        if each["kind"] == "Service"
    }
    assert [name for name, ports in offered.items() if "status-page" in ports] == ["Service/fed-status-page"]
    service = found["Service/fed-status-page"]["spec"]
    assert (service["type"], service["ports"][0]["port"]) == ("ClusterIP", 8445)
    assert service["selector"].items() <= pod("coordinator")["metadata"]["labels"].items()
    (rule,) = [each for each in found["NetworkPolicy/fed"]["spec"]["ingress"] if "status-page" in str(each["ports"])]
    assert rule["from"] == [{"ipBlock": {"cidr": "10.0.0.0/8"}}]


def _ended_by_sigterm(command: list[str]) -> int:
    """Start a shell's script, end it once it waits, and return its exit code."""
    shell, option, script = command
    told = script.replace("& wait", "& echo waits; wait")
    assert told != script
    with subprocess.Popen([shell, option, told], stdout=subprocess.PIPE, text=True, start_new_session=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "waits\n"
        started.terminate()
        code = started.wait(timeout=20)
        os.killpg(started.pid, signal.SIGKILL)  # what the shell started; in a pod it ends with the container
    return code


@pytest.mark.parametrize("chart", CHARTS)
def test_in_maintenance_nothing_runs_in_the_pod_and_a_stop_takes_no_time(chart: str) -> None:
    spec = pod(chart, "maintenance: true")["spec"]
    assert "initContainers" not in spec
    (container,) = spec["containers"]
    assert not any(key.endswith("Probe") or key == "args" for key in container)
    assert _ended_by_sigterm(container["command"]) == 0
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["volumes"]} | {"data"}


def test_the_coordinators_configuration_is_the_products(tmp_path: Path) -> None:
    from coordinator.config import load_config

    path = tmp_path / "coordinator.toml"
    path.write_text(rendered("coordinator")["ConfigMap/fed"]["data"]["coordinator.toml"])
    config = load_config(path, {})
    assert (config.coordinator.listen, config.coordinator.enrolment) == ("0.0.0.0:8443", "0.0.0.0:8444")
    assert config.coordinator.max_update_bytes == 1 << 30
    assert (config.blobs_url, config.compute.threads, config.lead.stall_s) == ("s3://fedmepd/artefacts", 8, 7200)
    mounts = containers("coordinator")[-1]["volumeMounts"]
    assert str(config.lead.cohort) in {mount["mountPath"] for mount in mounts}


def test_the_agents_configuration_and_policy_are_the_products(tmp_path: Path) -> None:
    from site_agent.config import load_config
    from site_agent.policy_file import Policy

    for name, text in rendered("agent")["ConfigMap/fed"]["data"].items():
        (tmp_path / name).write_text(text)
    config = load_config(tmp_path / "agent.toml")
    assert (config.agent.site, config.cohort.modalities, config.limits.stall_s) == ("hospital-a", ("flair", "t1"), 900)
    assert config.proxy.url == "http://proxy.hospital-a.example.org:3128"
    policy = Policy.of(config)
    assert (policy.aggregation.minimum_cohort, policy.approval.members) == (5, "person")
    mounts = containers("agent")[-1]["volumeMounts"]
    assert str(config.cohort.path) in {mount["mountPath"] for mount in mounts}


def test_an_agent_without_a_policy_of_its_own_has_the_defaults(tmp_path: Path) -> None:
    from site_agent.policy_file import Policy

    values = yaml.safe_load((HELM / "agent.example.yaml").read_text())
    del values["policy"]
    done = run(program("helm"), "template", HELM / "fedmepd-agent", "--values", "-", input=yaml.safe_dump(values))
    (config,) = [each for each in yaml.safe_load_all(done.stdout) if each["kind"] == "ConfigMap"]
    (tmp_path / "policy.toml").write_text(config["data"]["policy.toml"])
    assert Policy.load(tmp_path / "policy.toml") == Policy()


def test_services_lead_to_named_ports_of_the_pod() -> None:
    labels = pod("coordinator")["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in containers("coordinator")[-1]["ports"]}
    assert ports == {"members": 8443, "enrolment": 8444, "metrics": 9464}
    service = rendered("coordinator")["Service/fed"]["spec"]
    assert service["selector"].items() <= labels.items()
    assert {port["name"]: port["targetPort"] for port in service["ports"]} == {
        name: name for name in ("members", "enrolment")
    }
    governing = rendered("coordinator")["StatefulSet/fed"]["spec"]["serviceName"]
    assert rendered("coordinator")[f"Service/{governing}"]["spec"]["clusterIP"] == "None"


def test_closing_enrolment_closes_it_everywhere() -> None:
    found = rendered("coordinator", "enrolment: {enabled: false}")
    assert 'enrolment = ""' in found["ConfigMap/fed"]["data"]["coordinator.toml"]
    assert [port["name"] for port in found["Service/fed"]["spec"]["ports"]] == ["members"]
    assert [each["ports"][0]["port"] for each in found["NetworkPolicy/fed"]["spec"]["ingress"]] == [
        "members",
        "metrics",
    ]
    (container,) = found["StatefulSet/fed"]["spec"]["template"]["spec"]["containers"]
    assert [port["name"] for port in container["ports"]] == ["members", "metrics"]


def test_who_watches_alone_reaches_an_agent_and_it_reaches_names_and_one_way_out() -> None:
    policy = rendered("agent")["NetworkPolicy/fed"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [each["ports"] for each in policy["ingress"]] == [[{"port": "metrics", "protocol": "TCP"}]]
    assert [[port["port"] for port in rule["ports"]] for rule in policy["egress"]] == [[53, 53], [3128]]
    assert policy["podSelector"]["matchLabels"].items() <= pod("agent")["metadata"]["labels"].items()


def test_a_changed_configuration_starts_the_pod_anew() -> None:
    before, after = pod("agent"), pod("agent", "policy: {aggregation: {minimum_cohort: 7}}")
    assert before["metadata"]["annotations"]["checksum/config"] != after["metadata"]["annotations"]["checksum/config"]


@pytest.mark.parametrize(
    ("chart", "given"),
    [("coordinator", "bootstrap: {secretName: ''}"), ("agent", "secrets: {enrolmentToken: {name: ''}}")],
)
def test_what_was_needed_once_can_be_left_out(chart: str, given: str) -> None:
    spec = pod(chart, given)["spec"]
    assert "initContainers" not in spec
    assert not {"bootstrap", "enrolment"} & {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize(
    ("chart", "given", "said"),
    [
        ("coordinator", "image: {digest: ''}", "image.digest"),
        ("coordinator", "image: {tag: latest}", "tag"),
        ("coordinator", "lead: {existingClaim: ''}", "lead.existingClaim"),
        ("coordinator", "secrets: {keyPassphrase: {name: ''}}", "secrets.keyPassphrase.name"),
        ("coordinator", "config: {coordinator: {database: 'postgresql://a:b@c/d'}}", "config/coordinator"),
        ("coordinator", "service: {membersPort: 99999}", "membersPort"),
        ("coordinator", "replicas: 2", "replicas"),
        ("coordinator", "config: {metrics: {listen: ''}}", "config/metrics"),
        ("coordinator", "config: {status_page: {listen: ''}}", "config/status_page"),
        ("coordinator", "statusPage: {enabled: true}", "networkPolicy.statusPageFrom"),
        ("agent", "config: {metrics: {listen: ''}}", "config/metrics"),
        ("agent", "config: {agent: {data: /data}}", "config/agent"),
        ("agent", "config: {cohort: {modalities: null}}", "modalities"),
        ("agent", "cohort: {existingClaim: ''}", "cohort.existingClaim"),
    ],
)
def test_values_that_cannot_be_right_are_refused_by_name(chart: str, given: str, said: str) -> None:
    done = helm("template", chart, given=given)
    assert done.returncode != 0
    assert said in done.stderr


def _adopt(folder: Path) -> subprocess.CompletedProcess[str]:
    (container,) = pod("coordinator")["spec"]["initContainers"]
    (script,) = container["args"]
    for inside, here in (("/var/lib/fedmepd", folder / "volume"), ("/bootstrap", folder / "bootstrap")):
        script = script.replace(inside, str(here))
    return run(*container["command"], script, env={"PATH": os.environ["PATH"]})


def test_a_coordinator_is_adopted_from_the_archive_once(tmp_path: Path) -> None:
    key = tmp_path / "made" / "identity" / "tls-key.pem"
    key.parent.mkdir(parents=True)
    key.write_text("first")
    key.chmod(0o600)
    (tmp_path / "volume").mkdir()
    (tmp_path / "bootstrap").mkdir()
    archive = tmp_path / "bootstrap" / "coordinator.tar"
    for text in ("first", "second"):
        key.write_text(text)
        assert run("tar", "-C", tmp_path, "-cf", archive, "made").returncode == 0
        done = _adopt(tmp_path)
        assert done.returncode == 0, done.stderr
    adopted = tmp_path / "volume" / "coordinator" / "identity" / "tls-key.pem"
    assert (adopted.read_text(), adopted.stat().st_mode & 0o777) == ("first", 0o600)


def test_an_archive_of_something_else_is_not_adopted(tmp_path: Path) -> None:
    for name in ("volume", "bootstrap", "made"):
        (tmp_path / name).mkdir()
    assert run("tar", "-C", tmp_path, "-cf", tmp_path / "bootstrap" / "coordinator.tar", "made").returncode == 0
    assert _adopt(tmp_path).returncode != 0
    assert not (tmp_path / "volume" / "coordinator").exists()


def test_charts_carry_the_version_of_the_product() -> None:
    from fedmepd import __version__

    for chart in CHARTS:
        found = yaml.safe_load((HELM / f"fedmepd-{chart}" / "Chart.yaml").read_text())
        assert found["appVersion"] == __version__, ROOT
