"""The coordinator's configuration: TOML in, checked settings out. Secrets come from the environment alone.

`FEDMEPD_DATABASE_URL` overrides the database (it may hold a password); `FEDMEPD_KEY_PASSPHRASE` opens the keys.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from coordinator.errors import ConfigError

DATABASE_VARIABLE = "FEDMEPD_DATABASE_URL"
PASSPHRASE_VARIABLE = "FEDMEPD_KEY_PASSPHRASE"  # noqa: S105  a name, not a secret
_ADDRESS = r"^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):\d{1,5}$"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Service(_Section):
    """Where the coordinator listens and keeps things."""

    data: Path = Field(description="folder for keys, database, blobs and unfinished uploads")
    listen: str = Field("0.0.0.0:8443", pattern=_ADDRESS, description="for members, with client certificates")
    enrolment: str = Field("0.0.0.0:8444", pattern=rf"{_ADDRESS}|^$", description="for newcomers; empty closes it")
    database: SecretStr | None = Field(None, description="SQLAlchemy URL; SQLite in the data folder if not given")
    blobs: str | None = Field(None, description="folder or fsspec URL; a folder in the data folder if not given")
    max_update_bytes: int = Field(1 << 30, gt=0, description="largest upload of a site in one round")
    min_free_bytes: int = Field(1 << 30, ge=0, description="uploads are refused when the disk has less")


class Lead(_Section):
    """The lead hospital's own, full-modal patients; their training runs beside the service."""

    cohort: Path
    layout: str | None = None
    cache: Path | None = None
    skip_invalid: bool = False
    stall_s: float = Field(7200.0, gt=0, description="a trainer that says nothing for so long is started anew")


class Compute(_Section):
    """Where and how the lead's training computes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    threads: int | None = Field(None, ge=1)
    workers: int = Field(0, ge=0)


class Privacy(_Section):
    """The privacy budget of each of the lead hospital's patients, over all runs (SPEC 13)."""

    epsilon: float = Field(gt=0, description="largest epsilon of everything that was released")
    delta: float = Field(gt=0, lt=1, description="at which it is reckoned; below one over the number of patients")


class Metrics(_Section):
    """Where metrics and health are told, to the operator's own monitoring (`protos.exposition`)."""

    listen: str = Field("127.0.0.1:9464", pattern=rf"{_ADDRESS}|^$", description="host:port; empty: nowhere")
    certificate: Path | None = Field(None, description="PEM file; with `key`, the endpoint speaks TLS")
    key: Path | None = Field(None, description="PEM file of the certificate's key")
    client_ca: Path | None = Field(None, description="PEM file of who signs the certificates of readers")


class StatusPage(_Section):
    """The web page for operators and auditors; TLS with the coordinator's own certificate."""

    listen: str = Field("127.0.0.1:8445", pattern=rf"{_ADDRESS}|^$", description="host:port; empty: no page")


class Retention(_Section):
    """How long records of what is over are kept. Audit log, ledger, and kept models never fall under it."""

    rounds: int = Field(1000, ge=1, description="finished rounds of a run whose details are kept, the latest ones")
    days: float = Field(365.0, gt=0, description="runs that ended longer ago lose their rounds' details")


class Config(_Section):
    """The whole file."""

    coordinator: Service
    lead: Lead
    compute: Compute = Compute()
    privacy: Privacy | None = None
    metrics: Metrics = Metrics()
    status_page: StatusPage = StatusPage()
    retention: Retention = Retention()

    @property
    def database_url(self) -> str:
        """Where the database is."""
        given = self.coordinator.database
        return f"sqlite:///{self.coordinator.data / 'coordinator.db'}" if given is None else given.get_secret_value()

    @property
    def blobs_url(self) -> str:
        """Where artefacts are."""
        return self.coordinator.blobs or str(self.coordinator.data / "blobs")

    @property
    def ledger_path(self) -> Path:
        """Where the ledger of privacy budgets is."""
        return self.coordinator.data / "privacy" / "ledger.jsonl"


def load_config(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read and check a configuration; relative paths are relative to the file.

    Raises:
        ConfigError: If it cannot be read, or a key or value is wrong.
    """
    try:
        data = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"cannot read {path} ({error.strerror})", remedy="`fedmepd-coordinator init` makes one"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error})") from error
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first(error)}") from None
    return _resolved(config, path.parent.resolve(), environment.get(DATABASE_VARIABLE))


def passphrase(environment: Mapping[str, str] = os.environ) -> bytes | None:
    """Return the passphrase of the keys, if there is one."""
    text = environment.get(PASSPHRASE_VARIABLE)
    return text.encode() if text else None


def _resolved(config: Config, folder: Path, database: str | None) -> Config:
    service = config.coordinator.model_copy(
        update={
            "data": folder / config.coordinator.data,
            "database": SecretStr(database) if database else config.coordinator.database,
        }
    )
    cache = config.lead.cache or service.data / "lead" / "cache"
    files = {name: getattr(config.metrics, name) for name in ("certificate", "key", "client_ca")}
    metrics = config.metrics.model_copy(update={name: path and folder / path for name, path in files.items()})
    lead = config.lead.model_copy(update={"cohort": folder / config.lead.cohort, "cache": folder / cache})
    return config.model_copy(update={"coordinator": service, "lead": lead, "metrics": metrics})


def _first(error: ValidationError) -> str:
    item = error.errors(include_input=False)[0]
    key = ".".join(str(part) for part in item["loc"]) or "configuration"
    message = item["msg"].removeprefix("Value error, ")
    return f"unknown key {key!r}" if item["type"] == "extra_forbidden" else f"{key}: {message[:1].lower()}{message[1:]}"
