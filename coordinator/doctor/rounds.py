"""The doctor's round at a coordinator: folder and keys, ports, storage, what is kept, the ledger; then the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from coordinator.config import Config
from coordinator.doctor import identity
from coordinator.doctor.ledger import examine_ledger
from coordinator.doctor.members import examine_kept
from coordinator.doctor.ports import examine_ports, is_running
from coordinator.doctor.storage import examine_blobs, examine_disks, open_database
from coordinator.errors import CoordinatorError
from fedmepd.errors import FedmepdError
from protos.findings import Finding, Verdict, fail, skip
from protos.machine_findings import machine, patients
from security.folders import LoadedIdentity

Check = Callable[[], Mapping[str, Any]]


def examine(
    config: Config, *, passphrase: bytes | None, check: Check, now: datetime | None = None
) -> Iterator[Finding]:
    """Look at everything, one finding at a time.

    Args:
        config: The configuration.
        passphrase: Of the keys.
        check: Does the trainer's job `check` and returns its result.
        now: The time; the clock's if None.
    """
    moment = now or datetime.now(UTC)
    found = identity.folder(config)
    yield found
    if found.verdict is Verdict.FAIL:
        return
    loaded, found = identity.load(config, passphrase)
    yield found
    if loaded is None:
        yield identity.unknown_identity()
    else:
        yield from identity.certificates(config, loaded, passphrase, moment)
    yield from examine_ports(config, running=is_running(config, loaded))
    yield from _storage(config, loaded, moment)
    yield examine_ledger(config, loaded)
    yield from _trainer(config, check)
    yield _backups(config)


def _storage(config: Config, loaded: LoadedIdentity | None, now: datetime) -> Iterator[Finding]:
    store, findings = open_database(config)
    yield from findings
    if store is not None:
        try:
            yield from examine_kept(store, config, None if loaded is None else loaded.trust, now)
        finally:
            store.close()
    yield examine_blobs(config)
    yield from examine_disks(config)


def _trainer(config: Config, check: Check) -> Iterator[Finding]:
    try:
        found = check()
    except (CoordinatorError, FedmepdError) as error:
        yield fail("trainer", error.problem, error.remedy or "see lead/doctor.log in the coordinator's folder")
        return
    yield from machine(found, wanted=config.compute.device)
    if (said := found.get("cohort_error")) is not None:
        yield fail("patients", str(said[0]), str(said[1]))
        return
    yield from patients(found.get("cohort"), modalities=(), skip_invalid=config.lead.skip_invalid, key="lead")


def _backups(config: Config) -> Finding:
    where = "the database (pg_dump)" if config.coordinator.database is not None else "coordinator.db"
    return skip(
        "backups",
        f"nobody can see from here whether there are any: identity/, issuer/, privacy/ of {config.coordinator.data}, "
        f"{where} and the blobs belong into them, of the same moment",
    )
