"""The command line: one-line errors, exit codes, the doctor's lines, no torch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from protos.terms import DeclineCause
from site_agent.cli.main import run as main
from site_agent.config import load_config
from site_agent.doctor import Verdict, examine
from site_agent.errors import ConfigError, RefusalError
from site_agent.status import StatusFile
from site_agent.tls import connect

GOOD = """
[agent]
data = "data"
coordinator = "{address}"

[cohort]
path = "cohort"
modalities = ["flair", "t1"]

[limits]
min_free_bytes = 0
"""
NOBODY = "localhost:1"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(GOOD.format(address=NOBODY))
    return path


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return caught.value.code, out.out, out.err


def test_a_good_configuration_is_ok_and_paths_are_relative_to_it(capsys, file, tmp_path):
    assert call(capsys, "config", "check", file)[0] == 0
    config = load_config(file)
    assert config.data == tmp_path / "data"
    assert config.enrolment_address == "localhost:8444"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[limits]", "[limits]\nmax_bytes = 3", "unknown key 'limits.max_bytes' (known here: max_update_bytes"),
        ("[agent]", "[agent]\nsite = 'a b'", "agent.site"),
        (NOBODY, "nowhere", "agent.coordinator"),
        (NOBODY, "localhost:99999", "names no port"),
        ('["flair", "t1"]', '["t1", "t1"]', "name each modality once"),
        ('["flair", "t1"]', "[]", "cohort.modalities"),
        ("[agent]", "[agent", "not TOML"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_code_2(capsys, file, old, new, words):
    file.write_text(file.read_text().replace(old, new))
    code, _, err = call(capsys, "config", "check", file)
    assert code == 2
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml")


def test_proxies_come_from_the_file_or_the_environment(file, monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    assert load_config(file).proxy_for("fed.example:8443") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    assert load_config(file).proxy_for("fed.example:8443") == "http://proxy.example:3128"
    assert load_config(file).proxy_for("inside.example:8443") is None
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    assert load_config(file).proxy_for("fed.example:8443") == "http://proxy.example:3128"
    file.write_text(file.read_text() + '\n[proxy]\nurl = "http://other.example:8080"\n')
    assert load_config(file).proxy_for("inside.example:8443") == "http://other.example:8080"


def test_running_before_enrolment_says_what_to_do(capsys, file):
    code, _, err = call(capsys, "run", "--config", file)
    assert code == 2
    assert "enrol first" in err


def test_enrolling_needs_an_id_and_a_token(capsys, file):
    code, _, err = call(capsys, "enroll", "--config", file, "--token", "x")
    assert (code, "site's id is missing" in err) == (2, True)
    code, _, err = call(capsys, "enroll", "--config", file, "--site", "a", "--token", "x")
    assert (code, "not an enrolment token" in err) == (2, True)


def test_status_before_and_after_the_first_start(capsys, file, tmp_path):
    assert call(capsys, "status", "--config", file)[0] == 1
    (tmp_path / "data").mkdir()
    status = StatusFile(tmp_path / "data")
    status.now.run, status.now.round = "demo", 3
    status.score("demo", 2, 0.71)
    status.error("something")
    code, out, _ = call(capsys, "status", "--config", file, "--json")
    assert code == 0
    assert json.loads(out)["running"]
    code, out, _ = call(capsys, "status", "--config", file)
    assert "demo, round 3" in out
    assert "0.710" in out
    status.now.stopped = True
    status.write()
    assert call(capsys, "status", "--config", file)[0] == 1


FOUND = {
    "torch": "2.9",
    "device": "cuda:0",
    "device_name": "GPU",
    "threads": 4,
    "cohort": {
        "per_modality": {"flair": 2, "t1": 1},
        "cases": [
            {"case_id": "one", "usable": True, "problems": []},
            {"case_id": "two", "usable": False, "problems": [{"message": "no t1", "remedy": "add it"}]},
        ],
    },
}


def lines(config, check):
    return {finding.what: finding for finding in examine(config, passphrase=None, check=check)}


def test_the_doctor_works_before_enrolment_and_names_every_unusable_case(file):
    found = lines(load_config(file), lambda: FOUND)
    assert found["identity"].verdict is Verdict.SKIP
    assert found["port"].verdict is Verdict.FAIL
    assert found["port"].remedy
    assert found["disk"].verdict is Verdict.OK
    assert found["trainer"].verdict is Verdict.OK
    assert found["patients"].verdict is Verdict.FAIL
    assert found["patients"].text == "1 of 2 cases can be used; flair 2, t1 1"
    assert (found["case two"].text, found["case two"].remedy) == ("no t1", "add it")


def test_the_doctor_names_a_host_that_does_not_exist_and_a_trainer_that_fails(file):
    file.write_text(file.read_text().replace(NOBODY, "host.invalid:8443"))

    def fails():
        raise RefusalError("the trainer died", cause=DeclineCause.TRAINER)

    found = lines(load_config(file), fails)
    assert found["name"].verdict is Verdict.FAIL
    assert found["trainer"].verdict is Verdict.FAIL


def test_a_machine_without_gpu_is_a_warning(file):
    found = lines(load_config(file), lambda: {**FOUND, "device": "cpu", "device_name": None})
    assert found["GPU"].verdict is Verdict.WARN


def proxy_that_says(answer):
    """Serve one CONNECT; returns its address and what it was asked."""
    listening = socket.create_server(("127.0.0.1", 0))
    asked = []

    def serve():
        peer, _ = listening.accept()
        asked.append(peer.recv(4096).split(b"\r\n")[0])
        peer.sendall(answer)
        peer.close()
        listening.close()

    thread = threading.Thread(target=serve)
    thread.start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}", asked, thread


def test_a_proxy_is_asked_for_a_tunnel():
    proxy, asked, thread = proxy_that_says(b"HTTP/1.1 200 OK\r\n\r\n")
    connect("fed.example:8443", proxy).close()
    thread.join()
    assert asked == [b"CONNECT fed.example:8443 HTTP/1.1"]


def test_a_proxy_that_refuses_is_named(file):
    proxy, _, thread = proxy_that_says(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    file.write_text(file.read_text() + f'\n[proxy]\nurl = "{proxy}"\n')
    found = lines(load_config(file), lambda: FOUND)
    thread.join()
    assert found["port"].verdict is Verdict.FAIL
    assert "403" in found["port"].text


def test_the_daemon_and_its_command_line_load_nothing_heavy():
    heavy = {"fsspec", "matplotlib", "monai", "nibabel", "pandas", "scipy", "sqlalchemy", "tensorboard", "torch"}
    heavy |= {"dp_accounting", "jinja2", "opacus"}
    code = (
        "import sys, site_agent.cli.main, site_agent.assembly, site_agent.enrolment, site_agent.doctor; "
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_neither_grpc_nor_cryptography_nor_pydantic():
    code = (
        "import sys, site_agent.cli.main; "
        "print(sorted({'grpc', 'cryptography', 'pydantic', 'numpy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
