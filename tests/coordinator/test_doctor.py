"""The coordinator's doctor: a broken environment for each thing that it looks at, with what it says to do."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.cli import main
from coordinator.config import Config
from coordinator.doctor import examine, identity, ports, storage
from coordinator.doctor.asking import ask_trainer
from coordinator.doctor.members import Kept, examine_kept, examine_list
from coordinator.records import MemberRow, MemberState, TokenRow, TokenState
from coordinator.registry import Registry
from coordinator.store import open_store
from fedmepd.errors import WorkerDiedError
from protos import disk_findings
from protos.findings import Finding, Verdict
from security import keys, membership_file
from security.folders import ConsortiumFolder, IdentityFolder, IssuerFolder
from security.identity import Role
from security.membership import Member, MembershipList, sign
from security.pki.authority import issue
from security.pki.certificates import join_bundle
from security.pki.requests import verify_request
from security.privacy.ledger import Ledger
from security.privacy.terms import Budget
from tests.coordinator.postgres import PostgresServer, postgres_server
from tests.federation.hospital import PASSPHRASE, Hospital, IdleLead

__all__ = ["postgres_server"]

MACHINE = {"device": "cpu", "device_name": None, "threads": 2, "torch": "2.13", "cuda": None}
COHORT = {"per_modality": {"t1": 1}, "cases": [{"case_id": "one", "usable": True, "problems": []}]}
YEAR = timedelta(days=365)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    hospital = Hospital(tmp_path_factory.mktemp("made"), {})
    hospital.found()
    return hospital


@pytest.fixture
def world(made: Hospital, tmp_path: Path) -> Hospital:
    """A copy of a coordinator that a test may break."""
    shutil.copytree(made.folder, tmp_path / "world", symlinks=True)
    return Hospital(tmp_path / "world", {}, now=made.now)


def config_of(world: Hospital, **sections: Any) -> Config:
    service = {"data": world.folder / "coordinator", "listen": "localhost:0", "enrolment": "", "min_free_bytes": 0}
    return Config.model_validate(
        {
            "lead": {"cohort": world.folder / "cohort"},
            "compute": {"device": "cpu"},
            "metrics": {"listen": ""},
            "status_page": {"listen": ""},
            **sections,
            "coordinator": {**service, **sections.get("coordinator", {})},
        }
    )


def looked_at(config: Config, **options: Any) -> dict[str, Finding]:
    found = examine(
        config, passphrase=options.pop("passphrase", None), check=lambda: {**MACHINE, "cohort": COHORT}, **options
    )
    return {finding.what: finding for finding in found}


def is_mendable(finding: Finding, verdict: Verdict, words: str) -> None:
    assert finding.verdict is verdict, finding
    assert words in finding.text, finding
    assert finding.remedy, finding


def contents(folder: Path) -> dict[str, str]:
    """Return hash by name of all files; of a database that of what is in it, wherever SQLite keeps it just now."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(("-wal", "-shm")):
            content = told(path).encode() if path.suffix == ".db" else path.read_bytes()
            found[str(path)] = hashlib.sha256(content).hexdigest()
    return found


def told(database: Path) -> str:
    with closing(sqlite3.connect(database)) as opened:
        return "\n".join(opened.iterdump())


def begin(world: Hospital) -> Registry:
    """Make the database, as a first start does."""
    data = world.folder / "coordinator"
    trust = IdentityFolder(data / "identity").read_trust()
    return Registry(
        open_store(config_of(world).database_url), issuer=IssuerFolder(data / "issuer").load(None), trust=trust
    )


# -- the whole round ------------------------------------------------------------------------------------------------


def test_a_whole_coordinator_has_nothing_to_mend_and_nothing_is_changed(world: Hospital) -> None:
    begin(world)
    (world.folder / "coordinator" / "blobs").mkdir(mode=0o700)
    looked_at(config_of(world))  # a first look may make SQLite put its log into the file
    before = contents(world.folder)
    found = looked_at(config_of(world))
    assert {finding.verdict for finding in found.values()} == {Verdict.OK, Verdict.SKIP}, found
    assert contents(world.folder) == before
    assert found["database"].text.endswith("can be written")
    assert "belong into them" in found["backups"].text


async def _serve_and_look(world: Hospital) -> tuple[dict[str, Finding], tuple[str, str | None]]:
    import asyncio

    from fedmepd.durable import write_text

    async with world.serving(IdleLead(world.folder / "lead")) as served:
        members, newcomers = served.addresses
        said = json.dumps({"members": members, "newcomers": newcomers})
        write_text(world.folder / "coordinator" / "addresses.json", said)
        config = config_of(world, coordinator={"enrolment": "localhost:0"})
        return await asyncio.to_thread(looked_at, config), served.addresses


def test_a_running_coordinator_is_recognised_by_its_certificate(world: Hospital) -> None:
    import asyncio

    found, (members, newcomers) = asyncio.run(_serve_and_look(world))
    assert found["service"].text == f"runs at {members}"
    assert found["port for members"].text == f"{members} is held by our own running service"
    assert found["port for newcomers"].text == f"{newcomers} is held by our own running service"
    assert found["database"].verdict is Verdict.OK


def test_the_command_prints_lines_or_json_and_leaves_with_1(
    world: Hospital, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.doctor.asking.ask_trainer", lambda _: {**MACHINE, "cohort": None})
    file = world.folder / "coordinator.toml"
    file.write_text(
        '[coordinator]\ndata = "coordinator"\nlisten = "localhost:0"\nenrolment = ""\n[lead]\ncohort = "none"\n'
    )
    with pytest.raises(SystemExit) as left:
        main(["doctor", "--config", str(file)])
    assert left.value.code == 1
    assert "FAIL  patients" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["doctor", "--config", str(file), "--json"])
    found = json.loads(capsys.readouterr().out)["findings"]
    assert {"what": "configuration", "verdict": "ok", "text": f"{file}: every key is known", "remedy": ""} in found


def test_a_wrong_configuration_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["doctor", "--config", str(tmp_path / "none.toml")])
    assert left.value.code == 1
    assert "FAIL  configuration: cannot read" in capsys.readouterr().out


# -- folder, keys, certificates -------------------------------------------------------------------------------------


def test_a_folder_that_is_missing_or_open_to_others(world: Hospital) -> None:
    data = world.folder / "coordinator"
    data.chmod(0o755)
    is_mendable(looked_at(config_of(world))["folder"], Verdict.WARN, "open to other users")
    shutil.rmtree(data)
    found = looked_at(config_of(world))
    is_mendable(found["folder"], Verdict.FAIL, "there is no")
    assert set(found) == {"folder"}


def test_another_user_tries_nothing_in_the_folder(world: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    own = world.folder / "coordinator" / "identity"
    monkeypatch.setattr(disk_findings, "_owner", lambda path: 4321 if path == own else os.geteuid())
    before = contents(world.folder)

    def never() -> Any:
        raise AssertionError("nothing may be tried")

    (found,) = examine(config_of(world), passphrase=None, check=never)
    is_mendable(found, Verdict.FAIL, "belongs to #4321")
    assert "sudo -u #4321 fedmepd-coordinator doctor" in found.remedy
    assert contents(world.folder) == before


def test_keys_that_are_gone_open_to_others_or_sealed(world: Hospital) -> None:
    home = world.folder / "coordinator" / "identity"
    (home / "identity.key").chmod(0o644)
    is_mendable(looked_at(config_of(world))["identity"], Verdict.FAIL, "open to other users")
    (home / "identity.key").unlink()
    is_mendable(looked_at(config_of(world))["identity"], Verdict.FAIL, "is missing")
    shutil.rmtree(home)
    is_mendable(looked_at(config_of(world))["identity"], Verdict.FAIL, "holds no certificate")


def test_an_issuing_certificate_that_is_missing_is_named(world: Hospital) -> None:
    (world.folder / "coordinator" / "issuer" / "issuer.pem").unlink()
    is_mendable(looked_at(config_of(world))["issuer"], Verdict.FAIL, "issuer.pem is missing")


@pytest.mark.parametrize(
    ("after", "what", "verdict", "words"),
    [
        (80 * timedelta(days=1), "certificate", Verdict.WARN, "its renewal is due"),
        (YEAR, "certificate", Verdict.FAIL, "expired"),
        (2 * YEAR - 30 * timedelta(days=1), "issuer", Verdict.WARN, "expires at"),
        (3 * YEAR, "issuer", Verdict.FAIL, "expired at"),
        (9.5 * YEAR, "root", Verdict.WARN, "expires at"),
        (11 * YEAR, "root", Verdict.FAIL, "expired at"),
        (-YEAR, "certificate", Verdict.FAIL, "valid from"),
        (-YEAR, "root", Verdict.FAIL, "is valid from"),
    ],
)
def test_certificates_out_of_their_time(
    world: Hospital, after: timedelta, what: str, verdict: Verdict, words: str
) -> None:
    is_mendable(looked_at(config_of(world), now=world.now + after)[what], verdict, words)


def certify(world: Hospital, name: str) -> None:
    data = world.folder / "coordinator"
    folder, authority = IdentityFolder(data / "identity"), IssuerFolder(data / "issuer").load(None)
    request = verify_request(folder.request_certificate(passphrase=None, dns_names=(name,)))
    leaf = issue(authority, folder.read_identity(), request.public_key, now=world.now, dns_names=(name,))
    folder.install_certificate(join_bundle([leaf, authority.certificate]), now=world.now)


def test_names_that_do_not_lead_here(world: Hospital) -> None:
    other = config_of(world, coordinator={"listen": "192.0.2.7:8443"})
    loaded, _ = identity.load(other, None)
    assert loaded is not None
    is_mendable(identity._names(other, loaded), Verdict.WARN, "listens at 192.0.2.7")
    certify(world, "host.invalid")
    anywhere = config_of(world, coordinator={"listen": "0.0.0.0:8443"})
    loaded, _ = identity.load(anywhere, None)
    assert loaded is not None
    is_mendable(identity._names(anywhere, loaded), Verdict.WARN, "host.invalid cannot be resolved")


# -- ports ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("section", "key", "what"),
    [
        ("coordinator", "listen", "port for members"),
        ("coordinator", "enrolment", "port for newcomers"),
        ("metrics", "listen", "metrics"),
        ("status_page", "listen", "status page"),
    ],
)
def test_a_port_that_another_program_has(world: Hospital, taken: str, section: str, key: str, what: str) -> None:
    config = config_of(world, **{section: {key: taken}})
    found = {finding.what: finding for finding in ports.examine_ports(config, running=False)}
    is_mendable(found[what], Verdict.FAIL, "taken by another program")
    assert f"{section}.{key}" in found[what].remedy


def test_metrics_in_clear_for_other_machines_and_files_that_are_missing(world: Hospital, tmp_path: Path) -> None:
    config = config_of(world, metrics={"listen": "0.0.0.0:0"})
    (*_, found) = ports.examine_ports(config, running=False)
    is_mendable(found, Verdict.WARN, "in clear")
    config = config_of(world, metrics={"listen": "127.0.0.1:0", "certificate": tmp_path / "c", "key": tmp_path / "k"})
    (*_, found) = ports.examine_ports(config, running=False)
    is_mendable(found, Verdict.FAIL, "cannot be read")
    config = config_of(world, metrics={"listen": "127.0.0.1:0", "certificate": tmp_path / "c"})
    (*_, found) = ports.examine_ports(config, running=False)
    is_mendable(found, Verdict.FAIL, "key is missing")


# -- storage --------------------------------------------------------------------------------------------------------


def database(config: Config) -> Finding:
    store, (found, *_) = storage.open_database(config)
    if store is not None:
        store.close()
    return found


def test_a_database_that_is_damaged_or_another_programs(world: Hospital) -> None:
    config = config_of(world)
    path = world.folder / "coordinator" / "coordinator.db"
    path.write_bytes(b"this is no database, and it is long enough to be read as one" * 20)
    is_mendable(database(config), Verdict.FAIL, "damaged")
    assert path.read_bytes().startswith(b"this is no database")


@pytest.mark.parametrize(
    ("version", "verdict", "words"),
    [("0001", Verdict.WARN, "has the schema 0001"), ("9999", Verdict.FAIL, "has the schema 9999")],
)
def test_a_schema_of_another_release_is_told_and_left_alone(
    world: Hospital, version: str, verdict: Verdict, words: str
) -> None:
    begin(world)
    path = world.folder / "coordinator" / "coordinator.db"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
    connection.close()
    is_mendable(database(config_of(world)), verdict, words)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (version,)
    connection.close()


def test_a_database_that_is_busy(world: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(world)
    monkeypatch.setattr(storage, "_PATIENCE_S", 0.01)
    with sqlite3.connect(world.folder / "coordinator" / "coordinator.db") as connection:
        connection.execute("BEGIN IMMEDIATE")
        is_mendable(database(config_of(world)), Verdict.FAIL, "is locked")
    connection.close()


def test_a_server_that_is_not_there_and_its_password_is_not_shown(world: Hospital) -> None:
    url = "postgresql+psycopg://user:hidden-word@127.0.0.1:1/fedmepd"
    found = database(config_of(world, coordinator={"database": url}))
    is_mendable(found, Verdict.FAIL, "fedmepd at 127.0.0.1:1")
    assert "hidden-word" not in found.line
    is_mendable(database(config_of(world, coordinator={"database": "mysql://x/y"})), Verdict.FAIL, "not supported")


def test_postgresql_is_asked_for_its_version(world: Hospital, postgres_server: PostgresServer) -> None:
    url = postgres_server.fresh_database()
    config = config_of(world, coordinator={"database": url})
    assert database(config).verdict is Verdict.SKIP, "it is empty"
    open_store(url).close()
    assert database(config).text.startswith("PostgreSQL 1")


def test_sqlite_on_a_network_file_system(world: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {world.folder} nfs4 rw 0 0\n")
    monkeypatch.setattr(disk_findings, "MOUNTS", mounts)
    begin(world)
    store, found = storage.open_database(config_of(world))
    assert store is not None
    store.close()
    is_mendable(found[1], Verdict.WARN, "network file system (nfs4)")


def test_blobs_that_cannot_be_kept_or_come_back_changed(world: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    place = world.folder / "place"
    place.write_text("a file")
    is_mendable(storage.examine_blobs(config_of(world, coordinator={"blobs": str(place)})), Verdict.FAIL, "place")
    unknown = config_of(world, coordinator={"blobs": "nosuchthing://bucket"})
    is_mendable(storage.examine_blobs(unknown), Verdict.FAIL, "no driver")
    blobs = world.folder / "blobs"
    blobs.mkdir(mode=0o700)
    good = config_of(world, coordinator={"blobs": str(blobs)})
    assert storage.examine_blobs(good).verdict is Verdict.OK
    assert list(blobs.rglob("*")) == []
    monkeypatch.setattr("coordinator.local_blobs.LocalBlobs.open", lambda *_: (world.folder / "place").open("rb"))
    is_mendable(storage.examine_blobs(good), Verdict.FAIL, "other bytes")


def test_blobs_are_tried_beside_what_is_there_and_nothing_of_it_changes(
    world: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = world.folder / "blobs"
    (blobs / ".incoming").mkdir(parents=True, mode=0o700)
    (blobs / "ab").mkdir(mode=0o700)
    litter = blobs / ".incoming" / "old"
    litter.write_text("of a killed process")
    os.utime(litter, (0, 0))
    config, before = config_of(world, coordinator={"blobs": str(blobs)}), sorted(blobs.rglob("*"))
    assert storage.examine_blobs(config).verdict is Verdict.OK
    assert sorted(blobs.rglob("*")) == before
    real = os.access
    monkeypatch.setattr(storage.os, "access", lambda path, mode: path != blobs / "ab" and real(path, mode))
    is_mendable(storage.examine_blobs(config), Verdict.FAIL, "ab cannot be written")


def test_a_full_disk(world: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_findings.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    (found, *_) = storage.examine_disks(config_of(world, coordinator={"min_free_bytes": 1 << 30}))
    is_mendable(found, Verdict.FAIL, "coordinator.min_free_bytes")


# -- members --------------------------------------------------------------------------------------------------------

NOW = datetime.now(UTC).replace(microsecond=0)
SITES = ("a", "b", "c", "d")
KEYS = {site: keys.make_signing_key() for site in SITES}


def row_of(site: str, **changes: Any) -> MemberRow:
    made = MemberRow(
        role="site",
        member_id=site,
        modalities=("t1",),
        identity_public_key=keys.public_bytes(KEYS[site]),
        state=MemberState.ENROLLED,
        software="test",
        enrolled=NOW.timestamp(),
        serial="1",
        certificate_expires=(NOW + YEAR).timestamp(),
    )
    return replace(made, **changes)


def kept_of(world: Hospital, *, sites: tuple[str, ...] = SITES, **changes: Any) -> Kept:
    until, issued = changes.pop("until", {}), changes.pop("issued", NOW)
    key = changes.pop("key", None) or ConsortiumFolder(world.folder / "consortium").open(PASSPHRASE).membership_key
    listed = MembershipList(
        consortium="test",
        version=1,
        issued_at=issued,
        members=tuple(
            Member(
                site=site,
                identity_key=keys.public_bytes(KEYS[site]),
                modalities=("t1",),
                valid_from=NOW - YEAR,
                valid_until=until.get(site, NOW + YEAR),
            )
            for site in sites
        ),
    )
    rows = tuple(row_of(site) for site in SITES)
    signed = membership_file.to_json(sign(listed, key))
    return replace(Kept(members=rows, tokens=(), signed=signed, audit=()), **changes)


def listing(world: Hospital, kept: Kept) -> dict[str, Finding]:
    trust = IdentityFolder(world.folder / "coordinator" / "identity").read_trust()
    return {finding.what: finding for finding in examine_list(kept, trust, NOW)}


def test_a_good_list(world: Hospital) -> None:
    found = listing(world, kept_of(world))
    assert (set(found), found["membership"].verdict) == ({"membership"}, Verdict.OK)


def test_no_list_although_sites_are_enrolled(world: Hospital) -> None:
    is_mendable(listing(world, kept_of(world, signed=None))["membership"], Verdict.WARN, "4 sites are enrolled")
    assert listing(world, kept_of(world, signed=None, members=()))["membership"].verdict is Verdict.SKIP


def test_a_list_that_nobody_should_believe(world: Hospital) -> None:
    found = listing(world, kept_of(world, key=keys.make_signing_key()))["membership"]
    is_mendable(found, Verdict.FAIL, "not to be believed")


def test_members_that_are_revoked_expired_expiring_or_not_listed(world: Hospital) -> None:
    rows = (row_of("a", state=MemberState.REVOKED), *(row_of(site) for site in "bcd"))
    until = {"b": NOW, "c": NOW + timedelta(days=10)}
    found = listing(world, kept_of(world, sites=("a", "b", "c"), members=rows, until=until))
    is_mendable(found["membership"], Verdict.WARN, "1 of 3 listed sites are enrolled and valid; sums need 4")
    is_mendable(found["member a"], Verdict.WARN, "is revoked and still on the signed list")
    is_mendable(found["member b"], Verdict.WARN, "its membership ended")
    is_mendable(found["member c"], Verdict.WARN, "its membership ends")
    is_mendable(found["member d"], Verdict.WARN, "is enrolled and not on the signed list")


def kept_findings(
    world: Hospital, kept: Kept, monkeypatch: pytest.MonkeyPatch, now: datetime = NOW, **service: Any
) -> dict[str, Finding]:
    monkeypatch.setattr("coordinator.doctor.members.read", lambda _: kept)
    trust = IdentityFolder(world.folder / "coordinator" / "identity").read_trust()
    store: Any = None
    found = examine_kept(store, config_of(world, coordinator=service), trust, now)
    return {finding.what: finding for finding in found}


def test_a_clock_that_is_behind_what_was_signed(world: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    found = kept_findings(world, kept_of(world, issued=NOW + timedelta(hours=1)), monkeypatch)
    is_mendable(found["clock"], Verdict.FAIL, "is behind the signed list")
    assert found["membership"].verdict is Verdict.OK, "the clock is what is wrong"


def test_a_clock_that_was_set_back(world: Hospital) -> None:
    registry = begin(world)
    registry.create_token(Role.ADMIN, "alice", actor="test")
    found = looked_at(config_of(world), now=NOW - timedelta(hours=2))
    is_mendable(found["clock"], Verdict.FAIL, "min behind the newest audit record")


def token_of(state: TokenState) -> TokenRow:
    return TokenRow(
        token_id="t",
        secret_sha256=b"",
        role="site",
        member_id="hospital-x",
        modalities=("t1",),
        approval=True,
        created=0.0,
        expires=(NOW + YEAR).timestamp(),
        state=state,
    )


def test_enrolment_that_waits_or_that_nobody_needs(world: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = kept_of(world, tokens=(token_of(TokenState.AWAITING),))
    is_mendable(kept_findings(world, kept, monkeypatch)["enrolment"], Verdict.WARN, "approval: hospital-x")
    listen = {"enrolment": "localhost:0"}
    found = kept_findings(world, kept_of(world), monkeypatch, **listen)["enrolment"]
    is_mendable(found, Verdict.OK, "no token can be used, and the port is open")
    kept = kept_of(world, tokens=(token_of(TokenState.OPEN),))
    assert kept_findings(world, kept, monkeypatch, **listen)["enrolment"].text == "1 tokens can be used"


def test_an_audit_log_that_was_altered(world: Hospital) -> None:
    registry = begin(world)
    for name in ("alice", "bob"):
        registry.create_token(Role.ADMIN, name, actor="test")
    assert "2 records are whole" in looked_at(config_of(world))["audit log"].text
    with sqlite3.connect(world.folder / "coordinator" / "coordinator.db") as connection:
        connection.execute("UPDATE audit SET actor = 'nobody' WHERE sequence = 1")
    connection.close()
    is_mendable(looked_at(config_of(world))["audit log"], Verdict.FAIL, "1")


# -- the ledger -----------------------------------------------------------------------------------------------------


def write_ledger(world: Hospital) -> Path:
    own = IdentityFolder(world.folder / "coordinator" / "identity")
    path = world.folder / "coordinator" / "privacy" / "ledger.jsonl"
    path.parent.mkdir(mode=0o700)
    with Ledger.open(path, own.read_identity(), own.read_identity_key(None), clock=lambda: NOW) as ledger:
        ledger.set_budget(Budget(epsilon=8.0, delta=1e-5))
        ledger.unaccounted("run", "training", "without noise")
    return path


def test_a_ledger_that_is_unbounded_damaged_or_was_set_back(world: Hospital) -> None:
    config = config_of(world, privacy={"epsilon": 8.0, "delta": 1e-5})
    assert looked_at(config)["privacy"].verdict is Verdict.SKIP
    path = write_ledger(world)
    is_mendable(looked_at(config)["privacy"], Verdict.WARN, "unbounded")
    (path.parent / "rolled-back").write_text("put it back")
    is_mendable(looked_at(config)["privacy"], Verdict.FAIL, "others have seen more")
    (path.parent / "rolled-back").unlink()
    path.write_bytes(path.read_bytes().replace(b"without noise", b"without_noise"))
    is_mendable(looked_at(config)["privacy"], Verdict.FAIL, "")


# -- the lead's machine and patients --------------------------------------------------------------------------------


def trained(config: Config, check: Any) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(config, passphrase=None, check=check)}


def test_patients_that_cannot_be_used_and_a_trainer_that_dies(world: Hospital) -> None:
    config = config_of(world)
    bad = {"case_id": "two", "usable": False, "problems": [{"message": "no t1", "remedy": "add it"}]}
    report = {"per_modality": {"t1": 1}, "cases": [*COHORT["cases"], bad]}
    found = trained(config, lambda: {**MACHINE, "cohort": report})
    is_mendable(found["patients"], Verdict.FAIL, "1 of 2 cases can be used; t1 1")
    assert "lead.skip_invalid" in found["patients"].remedy
    is_mendable(found["case two"], Verdict.WARN, "no t1")
    found = trained(config, lambda: {**MACHINE, "cohort": None, "cohort_error": ("no such folder", "name another")})
    is_mendable(found["patients"], Verdict.FAIL, "no such folder")

    def dies() -> Any:
        raise WorkerDiedError(-9, "")

    is_mendable(trained(config, dies)["trainer"], Verdict.FAIL, "signal 9")


def test_a_trainer_that_cannot_be_started_is_a_fault_with_a_remedy(world: Hospital) -> None:
    found = trained(config_of(world), lambda: ask_trainer(config_of(world), ["/nonexistent/python"]))
    is_mendable(found["trainer"], Verdict.FAIL, "cannot be started")


def test_a_trainer_that_says_nothing_is_ended(world: Hospital) -> None:
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    found = trained(config_of(world), lambda: ask_trainer(config_of(world), command, silence_s=0.05))
    is_mendable(found["trainer"], Verdict.FAIL, "says nothing for")


def test_the_leads_trainer_says_what_is_wrong_with_the_path(world: Hospital) -> None:
    found = ask_trainer(config_of(world), [sys.executable, "-P", "-m", "coordinator.trainer"])
    assert found["device"] == "cpu"
    assert "cohort" in found["cohort_error"][0]
