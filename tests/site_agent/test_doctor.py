"""The doctor at a site: a broken environment for each thing that it looks at, with what it says to do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import ssl
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from fedmepd.jobs import Check
from fedmepd.phantom import write_cohort
from fedmepd.workbench import check
from protos import disk_findings, endpoint_findings, machine_findings
from protos.findings import Verdict, fail
from protos.machine_findings import machine, patients
from security import keys
from site_agent.audit import AuditLog
from site_agent.cli.main import run as main
from site_agent.config import Config
from site_agent.doctor import examine, network, service
from site_agent.doctor.asking import ask_trainer
from site_agent.doctor.disks import examine_disks
from site_agent.doctor.ledger import examine_ledger
from site_agent.doctor.network import examine_network
from site_agent.doctor.rounds import _machine_and_patients
from site_agent.doctor.service import examine_service
from site_agent.link import SOFTWARE
from site_agent.status import StatusFile

MODALITIES = ("flair", "t1ce")


def config_of(folder, *, metrics=None, cohort=None, least=0):
    (folder / "data").mkdir(exist_ok=True, mode=0o700)
    (folder / "cohort").mkdir(exist_ok=True)
    return Config.model_validate(
        {
            "agent": {"data": folder / "data", "coordinator": "localhost:1"},
            "cohort": {"path": cohort or folder / "cohort", "modalities": list(MODALITIES)},
            "limits": {"min_free_bytes": least},
            "metrics": {"listen": "", **(metrics or {})},
            "compute": {"device": "cpu"},
        }
    )


def by_name(findings):
    return {finding.what: finding for finding in findings}


def is_mendable(finding, verdict, words):
    assert finding.verdict is verdict, finding
    assert words in finding.text, finding
    assert finding.remedy


# -- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[agent", '[agent]\ndata = "d"\ncoordinator = "localhost:1"\ncolour = "red"'])
def test_a_wrong_configuration_is_a_finding_and_code_1(tmp_path, capsys, text):
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(SystemExit) as left:
        main(["doctor", "--config", str(file), "--json"])
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert left.value.code == 1
    assert (found["what"], found["verdict"]) == ("configuration", "FAIL")


def test_a_line_stays_one_line_and_leaves_the_terminal_alone():
    line = fail("case a\x1b[31m", "no\nt1", "add\tit").line
    assert line.isprintable()
    assert line.endswith("no t1 -> add it")


# -- the folder and whose it is -------------------------------------------------------------------------------------


def never():
    raise AssertionError("nothing may be tried")


@pytest.mark.parametrize("name", ["data", "data/identity"])
def test_another_user_tries_nothing_in_the_agents_folder(tmp_path, monkeypatch, name):
    config = config_of(tmp_path)
    (config.data / "identity").mkdir()
    monkeypatch.setattr(disk_findings, "_owner", lambda path: 4321 if path == tmp_path / name else os.geteuid())
    (found,) = examine(config, passphrase=None, check=never)
    is_mendable(found, Verdict.FAIL, "belongs to #4321")
    assert "sudo -u #4321 fedmepd-agent doctor" in found.remedy


def test_a_volume_that_root_lends_is_the_users(tmp_path, monkeypatch):
    config = config_of(tmp_path)
    monkeypatch.setattr(disk_findings.os, "geteuid", lambda: 4321)
    monkeypatch.setattr(disk_findings, "_owner", lambda path: 0 if path == config.data else 4321)
    assert disk_findings.examine_user("folder", config.data, command="") is None


def test_a_file_in_place_of_the_folder(tmp_path):
    config = config_of(tmp_path)
    config.data.rmdir()
    config.data.write_text("")
    (found,) = examine(config, passphrase=None, check=never)
    is_mendable(found, Verdict.FAIL, "is not a folder")


# -- disk -----------------------------------------------------------------------------------------------------------


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_findings.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    (found,) = examine_disks(config_of(tmp_path, least=1 << 30))
    is_mendable(found, Verdict.FAIL, "limits.min_free_bytes")


def test_a_disk_without_room_for_another_file(tmp_path, monkeypatch):
    room = {"f_bavail": 1 << 20, "f_blocks": 1 << 20, "f_bfree": 1 << 20, "f_frsize": 4096}
    monkeypatch.setattr(disk_findings.os, "statvfs", lambda _: SimpleNamespace(f_files=1000, f_favail=3, **room))
    (found,) = examine_disks(config_of(tmp_path))
    is_mendable(found, Verdict.FAIL, "room for 3 more files")


def test_a_disk_that_refuses_to_write_leaves_nothing(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(disk_findings.os, "fsync", refuse)
    (found,) = examine_disks(config_of(tmp_path))
    is_mendable(found, Verdict.FAIL, "Read-only")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_slow_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_findings, "_SLOW_S", -1.0)
    (found,) = examine_disks(config_of(tmp_path))
    is_mendable(found, Verdict.WARN, "MiB/s")


def test_a_good_disk_keeps_nothing_of_the_trial(tmp_path):
    (found,) = examine_disks(config_of(tmp_path))
    assert found.verdict is Verdict.OK
    assert list((tmp_path / "data").iterdir()) == []


# -- the ledger -----------------------------------------------------------------------------------------------------


def test_a_ledger_that_others_have_seen_more_of_and_one_that_was_put_back(tmp_path):
    config = config_of(tmp_path)
    assert examine_ledger(config, None).verdict is Verdict.SKIP
    note = config.data / "privacy" / "rolled-back"
    note.parent.mkdir()
    note.write_text("it was put back: ask the operator")
    is_mendable(examine_ledger(config, None), Verdict.FAIL, "ask the operator")
    assert str(note) in examine_ledger(config, None).remedy


@pytest.mark.parametrize("action", ["privacy.begun", "privacy.debit"])
def test_a_ledger_that_is_gone(tmp_path, action):
    config = config_of(tmp_path)
    with AuditLog(config.data, "test") as log:
        log.note("round.sent", "demo", "accepted")
        assert examine_ledger(config, None).verdict is Verdict.SKIP
        log.note(action, "ledger.jsonl", "accepted")
        is_mendable(examine_ledger(config, None), Verdict.FAIL, "there is no")


# -- the service ----------------------------------------------------------------------------------------------------


def status_of(config, **changes):
    status = StatusFile(config.data)
    for name, value in changes.items():
        setattr(status.now, name, value)
    status.write()
    return status


def test_a_running_agent_is_named_and_left_alone(tmp_path):
    config = config_of(tmp_path)
    status_of(config, connected=True, run="demo", round=3)
    before = sorted((path, path.stat().st_mtime_ns) for path in config.data.rglob("*"))
    found = by_name(examine_service(config))["agent"]
    assert (found.verdict, "run demo, round 3" in found.text) == (Verdict.OK, True)
    assert sorted((path, path.stat().st_mtime_ns) for path in config.data.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pid": 0, "stopped": True}, "it was stopped"),
        ({"pid": 0}, "ended without being stopped"),
        ({"connected": False, "last_error": "no route"}, "is not connected (no route)"),
    ],
)
def test_an_agent_that_does_not_work(tmp_path, changes, words):
    config = config_of(tmp_path)
    status_of(config, **changes)
    is_mendable(by_name(examine_service(config))["agent"], Verdict.WARN, words)


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_metrics_port_that_another_program_has(tmp_path, taken):
    found = by_name(examine_service(config_of(tmp_path, metrics={"listen": taken})))["metrics"]
    is_mendable(found, Verdict.FAIL, "taken by another program")


def test_a_metrics_port_that_our_own_agent_has(tmp_path, taken):
    config = config_of(tmp_path, metrics={"listen": taken})
    status_of(config, connected=True)
    assert by_name(examine_service(config))["metrics"].verdict is Verdict.OK


@pytest.mark.parametrize(
    ("listen", "words"), [("192.0.2.1:9465", "no address of this machine"), ("host.invalid:9465", "no address")]
)
def test_a_metrics_address_that_is_not_ours(tmp_path, listen, words):
    is_mendable(
        by_name(examine_service(config_of(tmp_path, metrics={"listen": listen})))["metrics"], Verdict.FAIL, words
    )


def test_a_port_for_the_privileged(monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(endpoint_findings, "_bind", refuse)
    found = endpoint_findings.examine_port("metrics", "127.0.0.1:80", ours=None, key="metrics.listen")
    is_mendable(found, Verdict.FAIL, "may not be listened at")


def certificate(folder, *, begins, ends, name="Inspection Box"):
    """Write a self-signed certificate and its key; return the files."""
    key = keys.make_tls_key()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, begins, ends)
    made, secret = folder / "cert.pem", folder / "key.pem"
    made.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(keys.private_pem(key))
    return made, secret


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("begins", "ends", "verdict", "words"),
    [
        (-3 * DAY, -DAY, Verdict.FAIL, "expired"),
        (DAY, 3 * DAY, Verdict.FAIL, "valid from"),
        (-DAY, DAY, Verdict.WARN, "expires"),
    ],
)
def test_a_metrics_certificate_out_of_its_time(tmp_path, begins, ends, verdict, words):
    now = datetime.now(UTC)
    made, key = certificate(tmp_path, begins=now + begins, ends=now + ends)
    config = config_of(tmp_path, metrics={"listen": "127.0.0.1:0", "certificate": made, "key": key})
    is_mendable(by_name(examine_service(config))["metrics TLS"], verdict, words)


def test_metrics_files_that_are_missing_or_do_not_belong_together(tmp_path):
    now = datetime.now(UTC)
    made, key = certificate(tmp_path, begins=now - DAY, ends=now + 90 * DAY)
    listen = {"listen": "127.0.0.1:0", "certificate": made}
    found = by_name(examine_service(config_of(tmp_path, metrics=listen)))["metrics TLS"]
    is_mendable(found, Verdict.FAIL, "certificate or key is missing")
    found = by_name(examine_service(config_of(tmp_path, metrics={**listen, "key": tmp_path / "none"})))["metrics TLS"]
    is_mendable(found, Verdict.FAIL, "cannot be read")
    key.write_bytes(keys.private_pem(keys.make_tls_key()))
    found = by_name(examine_service(config_of(tmp_path, metrics={**listen, "key": key})))["metrics TLS"]
    is_mendable(found, Verdict.FAIL, "are not a certificate and its key")


def test_logs_that_cannot_be_written_or_are_huge(tmp_path, monkeypatch):
    config = config_of(tmp_path)
    (config.data / "logs").mkdir()
    (config.data / "logs" / "trainer.log").write_bytes(b"x" * 2000)
    monkeypatch.setattr(service, "_LARGE_LOG", 1000)
    is_mendable(by_name(examine_service(config))["logs"], Verdict.WARN, "holds")
    monkeypatch.setattr(service.os, "access", lambda *_: False)
    is_mendable(by_name(examine_service(config))["logs"], Verdict.FAIL, "cannot be written")


def test_logs_that_cannot_be_listed(tmp_path, monkeypatch):
    config = config_of(tmp_path)
    (config.data / "logs").mkdir()

    def refuse(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(service.Path, "iterdir", refuse)
    is_mendable(service._logs(config.data / "logs"), Verdict.FAIL, "Input/output error")


def test_patients_that_are_absent_unreadable_or_could_be_changed(tmp_path, monkeypatch):
    config = config_of(tmp_path)
    monkeypatch.setattr(service.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(service.os, "access", lambda _path, mode: mode & os.W_OK == 0)
    assert by_name(examine_service(config))["rights"].verdict is Verdict.OK
    monkeypatch.setattr(service.os, "access", lambda *_: True)
    is_mendable(by_name(examine_service(config))["rights"], Verdict.WARN, "can be changed")
    monkeypatch.setattr(service.os, "access", lambda *_: False)
    is_mendable(by_name(examine_service(config))["rights"], Verdict.FAIL, "cannot be read")
    (tmp_path / "cohort").rmdir()
    is_mendable(by_name(examine_service(config))["rights"], Verdict.FAIL, "there is no")


def test_root_is_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(service.os, "geteuid", lambda: 0)
    found = [finding for finding in examine_service(config_of(tmp_path)) if finding.what == "rights"]
    is_mendable(found[0], Verdict.WARN, "root")


# -- the network ----------------------------------------------------------------------------------------------------


@contextmanager
def middlebox(folder):
    """Speak TLS with a certificate of another authority."""
    now = datetime.now(UTC)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(folder, begins=now - DAY, ends=now + DAY))
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            for _ in range(2):
                peer, _ = listening.accept()
                with peer:
                    peer.settimeout(10)
                    try:
                        context.wrap_socket(peer, server_side=True).close()
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def test_a_middlebox_is_recognised_before_enrolment_too(tmp_path):
    config = config_of(tmp_path)
    with middlebox(tmp_path) as address:
        there = config.agent.model_copy(update={"coordinator": address, "enrolment": address})
        found = by_name(examine_network(config.model_copy(update={"agent": there}), None))
    is_mendable(found["enrolment"], Verdict.FAIL, "a middlebox intercepts TLS")
    assert "Inspection Box" in found["enrolment"].text


@pytest.mark.parametrize(
    ("skew", "verdict"), [(0, Verdict.OK), (-60, Verdict.WARN), (60, Verdict.WARN), (3600, Verdict.FAIL)]
)
def test_a_wrong_clock(skew, verdict):
    found = network._clock(time.time(), time.time() + skew)
    assert found.verdict is verdict
    assert bool(found.remedy) == (verdict is not Verdict.OK)


def test_another_release_at_the_coordinator():
    own = SOFTWARE.rpartition(" ")[2]
    assert network._version(f"fedmepd-coordinator {own}").verdict is Verdict.OK
    found = network._version("fedmepd-coordinator 999.0")
    is_mendable(found, Verdict.WARN, "999.0")
    assert found.remedy.endswith("999.0")


# -- machine --------------------------------------------------------------------------------------------------------

CPU = {"device": "cpu", "device_name": None, "threads": 2, "torch": "2.13.0+cpu", "cuda": None}
BLIND = {**CPU, "torch": "2.13.0+cu130", "cuda": "13.0"}
GPU = {**BLIND, "device": "cuda", "device_name": "H100", "gpu_memory_bytes": 80 << 30, "gpu_fits": True}


def driver(folder, monkeypatch, says, code=0):
    """Put an `nvidia-smi` into the path."""
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_gpu_and_a_pytorch_for_cpus(tmp_path, monkeypatch, wanted):
    driver(tmp_path, monkeypatch, "NVIDIA H100, 81559 MiB, 570.1")
    found = by_name(machine(CPU, wanted=wanted))["GPU"]
    is_mendable(found, Verdict.FAIL if wanted == "cuda" else Verdict.WARN, "NVIDIA H100")
    assert "built for CPUs only" in found.text
    assert "requirements/torch.txt" in found.remedy


def test_a_gpu_that_pytorch_does_not_see(tmp_path, monkeypatch):
    driver(tmp_path, monkeypatch, "NVIDIA H100, 81559 MiB, 570.1")
    found = by_name(machine(BLIND, wanted="cuda"))["GPU"]
    is_mendable(found, Verdict.FAIL, "does not see it")
    assert "--gpus all" in found.remedy


def test_a_driver_that_does_not_work(tmp_path, monkeypatch):
    driver(tmp_path, monkeypatch, "Failed to initialize NVML: Driver/library version mismatch", code=18)
    is_mendable(by_name(machine(BLIND, wanted="auto"))["GPU"], Verdict.WARN, "version mismatch")


def test_no_gpu_at_all(monkeypatch):
    monkeypatch.setattr(machine_findings, "driver_gpus", lambda: None)
    is_mendable(by_name(machine(BLIND, wanted="cuda"))["GPU"], Verdict.FAIL, "no GPU was found")
    assert by_name(machine(CPU, wanted="cpu"))["GPU"].verdict is Verdict.OK


def test_a_gpu_that_is_too_small_or_too_new_for_this_pytorch():
    assert by_name(machine(GPU, wanted="auto"))["GPU"].verdict is Verdict.OK
    is_mendable(by_name(machine({**GPU, "gpu_memory_bytes": 4 << 30}, wanted="auto"))["GPU"], Verdict.WARN, "4.0 GiB")
    old = {**GPU, "gpu_fits": False, "gpu_capability": "3.5"}
    is_mendable(by_name(machine(old, wanted="auto"))["GPU"], Verdict.FAIL, "compute capability 3.5")


# -- patients -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_cohort(folder, kind="brain", cases=2, shape=(32, 32, 32), seed=1, workers=1)
    return folder


@pytest.fixture
def broken(phantoms, tmp_path):
    """A copy of the cohort that a test may damage, and its first case's file of a modality."""
    copy = tmp_path / "broken"
    shutil.copytree(phantoms, copy)

    def file(ending):
        return min(copy.rglob(f"*{ending}.nii.gz"))

    return copy, file


def looked_at(cohort):
    report = check(Check(cohort=cohort, modalities=MODALITIES), lambda **_: None)["cohort"]
    return list(patients(report, modalities=MODALITIES, skip_invalid=False, key="cohort"))


def case_of(cohort):
    found = looked_at(cohort)
    assert found[0].verdict is Verdict.FAIL
    assert "1 of 2 cases can be used" in found[0].text
    assert len(found) == 2
    assert found[1].remedy
    return found[1]


def test_a_whole_cohort_counts_its_modalities(phantoms):
    (found,) = looked_at(phantoms)
    assert (found.verdict, found.text) == (Verdict.OK, "2 of 2 cases can be used; flair 2, t1ce 2")


def test_a_corrupted_image(broken):
    cohort, file = broken
    path = file("t1ce")
    path.write_bytes(path.read_bytes()[:200])
    assert path.name in case_of(cohort).text


def test_a_missing_modality(broken):
    cohort, file = broken
    path = file("t1ce")
    path.unlink()
    assert "t1c" in case_of(cohort).text


def test_labels_out_of_the_set(broken):
    cohort, file = broken
    path = file("seg")
    image = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    values[0, 0, 0] = 77
    nib.save(nib.Nifti1Image(values, image.affine), path)
    assert "77" in case_of(cohort).text


def test_grids_that_differ(broken):
    cohort, file = broken
    path = file("t1ce")
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.diag([3.0, 3.0, 3.0, 1.0])), path)
    assert "differ in spacing" in case_of(cohort).text


def test_more_bad_cases_than_anybody_reads_are_counted():
    bad = {"usable": False, "problems": [{"message": "no t1", "remedy": "add it"}]}
    report = {"per_modality": {}, "cases": [{"case_id": str(number), **bad} for number in range(60)]}
    found = list(patients(report, modalities=MODALITIES, skip_invalid=False, key="cohort"))
    assert len(found) == 52
    assert "10 more cases" in found[-1].text


def test_a_trainer_that_says_nothing_is_a_fault_with_a_remedy(tmp_path):
    config = config_of(tmp_path)
    (config.data / "logs").mkdir()
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    (found,) = _machine_and_patients(config, lambda: ask_trainer(config, command, silence_s=0.05))
    is_mendable(found, Verdict.FAIL, "says nothing for")
    assert "doctor.log" in found.remedy


def test_the_trainer_says_what_is_wrong_with_the_path_and_still_looks_at_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDMEPD_KEY_PASSPHRASE", "not for workers")
    found = ask_trainer(config_of(tmp_path, cohort=tmp_path / "nowhere"))
    assert found["device"] == "cpu"
    assert "nowhere" in found["cohort_error"][0]
