"""What goes into a support bundle: gathered here, and redacted before it is anything of a bundle."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fedmepd import __version__
from protos.findings import Finding
from site_agent.audit import FILE_NAME as AUDIT
from site_agent.bundle.names import patient_names
from site_agent.bundle.pack import Entry
from site_agent.bundle.redaction import Redactor
from site_agent.config import Config
from site_agent.errors import AgentError
from site_agent.policy_file import Policy
from site_agent.status import read_status

_KERNEL = re.compile(r"\d+(?:\.\d+)*")
_TAIL_BYTES = 256 << 10
_AUDIT_LINES = 300
_JOURNAL_LINES = 2000
_JOURNAL_S = 15.0
_UNIT = "fedmepd-agent.service"
_PACKAGES = ("cryptography", "grpcio", "monai", "nibabel", "numpy", "protobuf", "pydantic", "torch")
_ONLY_COUNTED = ("cache", "downloads")
_MOST_FILES = 5000


def collect(config: Config, findings: Sequence[Finding], cases: Iterable[str]) -> tuple[Entry, ...]:
    """Return the redacted contents of a bundle.

    Args:
        config: The agent's configuration.
        findings: What the doctor said.
        cases: Ids of all cases that the doctor was told; they are replaced.
    """
    redactor = redactor_of(config, cases)
    return (
        _packed("versions.json", _versions()),
        _json("configuration.json", redactor, config.model_dump(mode="json")),
        _json("policy.json", redactor, _policy(config)),
        _json("doctor.json", redactor, {"findings": [finding.plain for finding in findings]}),
        _json("status.json", redactor, read_status(config.data) or {}),
        _json("machine.json", redactor, _machine(config)),
        _json("files.json", redactor, list(_files(config.data))),
        *_texts(config, redactor),
    )


def redactor_of(config: Config, cases: Iterable[str]) -> Redactor:
    """Return what redacts a site's texts."""
    url = config.proxy.url or ""
    proxy = url.removeprefix("http://").rpartition("@")[2].rstrip("/")
    named = (config.agent.coordinator, config.enrolment_address, config.metrics.listen, proxy)
    places = {
        config.cohort.path: "<cohort>",
        config.cohort.path.resolve(): "<cohort>",
        config.cache: "<cache>",
        config.data: "<data>",
        config.data.resolve(): "<data>",
    }
    if config.cohort.path.is_file():
        places[config.cohort.path.parent] = "<cohort>"
    hosts = [name.rpartition(":")[0].strip("[]") for name in named if name]
    names = patient_names(config, cases)
    return Redactor(names, places=places, hosts=hosts, environment=os.environ, urls=[url])


def _json(name: str, redactor: Redactor, value: Any) -> Entry:
    return _packed(name, redactor.data(value))


def _packed(name: str, value: Any) -> Entry:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return Entry(name=name, content=text.encode("utf-8", "replace") + b"\n")


def _versions() -> dict[str, str]:
    """Return facts that are the same at any site, which need no redaction."""
    kernel = _KERNEL.match(platform.release())
    system = f"{platform.system()} {kernel[0] if kernel else ''} {platform.machine()}"
    found = {"fedmepd": __version__, "python": platform.python_version(), "system": system}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _policy(config: Config) -> dict[str, Any]:
    try:
        return Policy.of(config).model_dump(mode="json")
    except AgentError as error:
        return {"error": str(error)}


def _machine(config: Config) -> dict[str, Any]:
    facts: dict[str, Any] = {"cpus": os.cpu_count(), "executable": sys.executable}
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()[:5]
        parts = [line.replace(":", " ").split() for line in lines]
        facts["memory"] = {f"{name} in kB": int(number) for name, number, *_ in parts}
    except OSError as error:
        facts["memory"] = str(error.strerror)
    for name, folder in (("data", config.data), ("cache", config.cache)):
        try:
            usage = shutil.disk_usage(folder)
            facts[f"disk of {name}"] = {"size": usage.total, "free": usage.free}
        except OSError as error:
            facts[f"disk of {name}"] = str(error.strerror)
    return facts


def _files(data: Path) -> Iterator[Mapping[str, Any]]:
    """Yield names and sizes of what the agent keeps; of prepared cases and downloads only how many there are."""
    count = 0
    for place in sorted(data.iterdir() if data.is_dir() else ()):
        found = [path for path in sorted(place.rglob("*")) if path.is_file()] if place.is_dir() else [place]
        if place.name in _ONLY_COUNTED:
            yield {"name": f"{place.name}/", "files": len(found), "bytes": sum(path.lstat().st_size for path in found)}
            continue
        for path in found:
            count += 1
            if count > _MOST_FILES:
                return
            yield {"name": path.relative_to(data).as_posix(), "bytes": path.lstat().st_size}


def _texts(config: Config, redactor: Redactor) -> Iterator[Entry]:
    sources = [(f"logs/log-{number}.txt", _tail(path)) for number, path in enumerate(_logs(config.data), 1)]
    sources.append(("journal.txt", _journal()))
    sources.append(("audit-tail.txt", "\n".join(_tail(config.data / AUDIT).splitlines()[-_AUDIT_LINES:])))
    for name, text in sources:
        if text:
            yield Entry(name=name, content=redactor.text(text).encode("utf-8", "replace") + b"\n")


def _logs(data: Path) -> list[Path]:
    folder = data / "logs"
    return sorted(path for path in folder.glob("*.log*") if path.is_file()) if folder.is_dir() else []


def _tail(path: Path) -> str:
    """Return the end of a file, from the beginning of a line; nothing if it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            content = file.read()
    except OSError:
        return ""
    return _ended(content, whole=size <= _TAIL_BYTES)


def _ended(content: bytes, *, whole: bool) -> str:
    """Return the end of a text without the line that it may begin within, which may be a part of a name."""
    text = content.decode("utf-8", "replace")
    return text if whole else text.partition("\n")[2]


def _journal() -> str:
    command = shutil.which("journalctl")
    if command is None:
        return ""
    asked = [command, "--unit", _UNIT, "--lines", str(_JOURNAL_LINES), "--no-pager", "--quiet", "--no-hostname"]
    try:
        done = subprocess.run(asked, capture_output=True, timeout=_JOURNAL_S, check=False)  # noqa: S603  no shell
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return _ended(done.stdout[-_TAIL_BYTES:], whole=len(done.stdout) <= _TAIL_BYTES)
