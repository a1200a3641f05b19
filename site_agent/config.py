"""The agent's configuration: TOML in, checked settings out. Secrets come from the environment alone.

`FEDMEPD_KEY_PASSPHRASE` opens the keys; `FEDMEPD_TOKEN` may hold the enrolment token. Torch-free.
"""

from __future__ import annotations

import os
import tomllib
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from site_agent.errors import ConfigError

PASSPHRASE_VARIABLE = "FEDMEPD_KEY_PASSPHRASE"  # noqa: S105  a name, not a secret
_ADDRESS = r"^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):\d{1,5}$"
POLICY_FILE = "policy.toml"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_NEWCOMERS_PORT = 8444
_LAST_PORT = 0xFFFF
_DOCUMENTED = "docs/services.md lists every key with its default"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Service(_Section):
    """Who the site is, where the coordinator is, where the agent keeps things."""

    data: Path = Field(description="folder for keys, state, downloads and results; the agent's alone")
    coordinator: str = Field(pattern=_ADDRESS, description="host:port for members")
    enrolment: str | None = Field(None, pattern=_ADDRESS, description="host:port for newcomers; same host, port 8444")
    site: str | None = Field(None, pattern=_NAME, description="the site's id, as its token was made for")
    policy: Path | None = Field(None, description="the hospital's policy; policy.toml beside this file if it is there")


class Cohort(_Section):
    """The hospital's patients; only read."""

    path: Path
    layout: str | None = None
    modalities: tuple[str, ...] = Field(min_length=1, max_length=32)
    skip_invalid: bool = Field(False, description="leave out cases that cannot be used instead of declining")
    cache: Path | None = Field(None, description="folder for prepared cases; in the data folder if not given")

    @field_validator("modalities")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("name each modality once")
        return names


class Compute(_Section):
    """Where and how to train."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    threads: int | None = Field(None, ge=1)
    workers: int = Field(0, ge=0)


class Limits(_Section):
    """What the site lets happen."""

    max_update_bytes: int = Field(1 << 30, gt=0, description="largest contribution that leaves the site in a round")
    max_download_bytes: int = Field(8 << 30, gt=0, description="largest single artefact that is fetched")
    min_free_bytes: int = Field(1 << 30, ge=0, description="rounds are declined when the disk has less")
    stall_s: float = Field(600.0, gt=0, description="a transfer without progress for so long is started again")


class Proxy(_Section):
    """An HTTP proxy (CONNECT) on the way out."""

    url: str | None = Field(None, pattern=r"^http://[^\s/]+:\d{1,5}/?$", description="http://host:port")


class Metrics(_Section):
    """Where metrics and health are told, to the hospital's own monitoring (`protos.exposition`)."""

    listen: str = Field("127.0.0.1:9465", pattern=rf"{_ADDRESS}|^$", description="host:port; empty: nowhere")
    certificate: Path | None = Field(None, description="PEM file; with `key`, the endpoint speaks TLS")
    key: Path | None = Field(None, description="PEM file of the certificate's key")
    client_ca: Path | None = Field(None, description="PEM file of who signs the certificates of readers")


class Config(_Section):
    """The whole file."""

    agent: Service
    cohort: Cohort
    compute: Compute = Compute()
    limits: Limits = Limits()
    proxy: Proxy = Proxy()
    metrics: Metrics = Metrics()

    @model_validator(mode="after")
    def _ports(self) -> Self:
        for address in (self.agent.coordinator, self.enrolment_address):
            if not 0 < int(address.rpartition(":")[2]) <= _LAST_PORT:
                raise ValueError(f"{address!r} names no port")
        return self

    @property
    def data(self) -> Path:
        """The agent's own folder."""
        return self.agent.data

    @property
    def cache(self) -> Path:
        """Where prepared cases are kept."""
        return self.cohort.cache or self.data / "cache"

    @property
    def enrolment_address(self) -> str:
        """Where newcomers go."""
        return self.agent.enrolment or f"{self.agent.coordinator.rpartition(':')[0]}:{_NEWCOMERS_PORT}"

    def proxy_for(self, address: str) -> str | None:
        """Return the proxy on the way to an address: the configured one, else that of the environment."""
        if self.proxy.url is not None:
            return self.proxy.url
        host = address.rpartition(":")[0].strip("[]")
        found = urllib.request.getproxies().get("https")
        if found is None or urllib.request.proxy_bypass(host):
            return None
        return found if "://" in found else f"http://{found}"


def load_config(path: Path) -> Config:
    """Read and check a configuration; relative paths are relative to the file.

    Raises:
        ConfigError: If it cannot be read, or a key or value is wrong; every fault is named.
    """
    try:
        data = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror})", remedy="name the file with --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error})") from error
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {'; '.join(faults(error, Config))}", remedy=_DOCUMENTED) from None
    return _resolved(config, path.parent.resolve())


def passphrase(environment: Mapping[str, str] = os.environ) -> bytes | None:
    """Return the passphrase of the keys, if there is one."""
    text = environment.get(PASSPHRASE_VARIABLE)
    return text.encode() if text else None


def _resolved(config: Config, folder: Path) -> Config:
    update = {"data": folder / config.agent.data, "policy": _policy(config.agent.policy, folder)}
    service = config.agent.model_copy(update=update)
    cache = None if config.cohort.cache is None else folder / config.cohort.cache
    cohort = config.cohort.model_copy(update={"path": folder / config.cohort.path, "cache": cache})
    files = {name: getattr(config.metrics, name) for name in ("certificate", "key", "client_ca")}
    metrics = config.metrics.model_copy(update={name: path and folder / path for name, path in files.items()})
    return config.model_copy(update={"agent": service, "cohort": cohort, "metrics": metrics})


def _policy(named: Path | None, folder: Path) -> Path | None:
    """Return the policy's file: the one that is named, be it there or not, else the one that lies there."""
    if named is not None:
        return folder / named
    beside = folder / POLICY_FILE
    return beside if os.path.lexists(beside) else None


def faults(error: ValidationError, kind: type[BaseModel]) -> list[str]:
    """Return every fault of a file in words, the key first.

    Args:
        error: What was found.
        kind: What the file should be.
    """
    found = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"]) or "configuration"
        if item["type"] == "extra_forbidden":
            found.append(f"unknown key {key!r} (known here: {', '.join(_known(item['loc'][:-1], kind))})")
        else:
            found.append(f"{key}: {item['msg'].removeprefix('Value error, ')}")
    return found


def _known(path: tuple[str | int, ...], section: type[BaseModel]) -> list[str]:
    for part in path:
        hint = section.model_fields[str(part)].annotation
        kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not kinds:
            break
        section = kinds[0]
    return list(section.model_fields)
