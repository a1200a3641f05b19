"""Configuration: TOML in, checked settings out.

A `Plan` is what all members of a run agree on; a `Config` adds what a simulation also needs: the members' cohorts and
where to compute. A preset gives the defaults, the file overrides them, unknown keys are errors. Relative paths are
relative to the file. Nothing here loads torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from fedmepd.cohorts import load_institution_split
from fedmepd.errors import ConfigError, TaskError
from fedmepd.plan import Plan, checked, read_toml
from fedmepd.sections import SERVER_ID, Compute, Data, Member, Preparation
from fedmepd.task import Task, load_task

__all__ = ["SERVER_ID", "Config", "load_config", "parse_config"]


class Config(Plan):
    """A simulated federation: a plan, its members, and where to compute."""

    compute: Compute = Compute()
    data: Data = Data()
    server: Member
    sites: tuple[Member, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _members(self) -> Config:
        names = [member.id for member in self.members]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two members are called {twice[0]!r}")
        if self.server.id != SERVER_ID or SERVER_ID in names[1:]:
            raise ValueError(f"the server is called {SERVER_ID!r}, and no site is")
        return self

    @property
    def members(self) -> tuple[Member, ...]:
        """The server, then the sites."""
        return (self.server, *self.sites)

    def plan(self, method: str) -> Plan:
        """Return what the members agree on when they run one of the configuration's methods."""
        shared = {name: getattr(self, name) for name in Plan.model_fields if name not in ("run", "data")}
        preparation = Preparation(**{name: getattr(self.data, name) for name in Preparation.model_fields})
        run = self.run.model_copy(update={"methods": (method,)})
        return Plan.model_construct(**shared, run=run, data=preparation)


def load_config(path: Path, *, overrides: dict[str, Any] | None = None) -> Config:
    """Read a configuration file.

    Args:
        path: TOML file.
        overrides: Values by dotted key, which win over the file.

    Raises:
        ConfigError: If the file cannot be read, or a key or value is wrong; every fault is named.
    """
    data = read_toml(path)
    for key, value in (overrides or {}).items():
        place(data, key.split("."), value)
    return parse_config(data, source=str(path), folder=path.parent)


def parse_config(data: dict[str, Any], *, source: str, folder: Path) -> Config:
    """Check parsed TOML against the preset that it names.

    Args:
        data: Parsed configuration.
        source: Where it came from, for messages.
        folder: What relative paths are relative to.

    Raises:
        ConfigError: If a key or value is wrong; every fault is named.
    """
    data = dict(_expand_institutions(data, source))
    if isinstance(data.get("server"), dict):
        data["server"] = {"id": SERVER_ID, **data["server"]}
    return _resolve(checked(Config, data, source), folder, source)


def _expand_institutions(data: dict[str, Any], source: str) -> dict[str, Any]:
    """Turn `[institutions]` (a shipped split and the folder of its data set) into a server and sites."""
    if "institutions" not in data:
        return data
    institutions = data["institutions"]
    if not isinstance(institutions, dict) or set(institutions) != {"split", "cohort"}:
        raise ConfigError(f"{source}: institutions needs exactly the keys split and cohort")
    if "server" in data or "sites" in data:
        raise ConfigError(f"{source}: give either institutions, or server and sites")
    split = load_institution_split(str(institutions["split"]))
    members = [
        {
            "id": name,
            "cohort": institutions["cohort"],
            "layout": split.layout,
            "modalities": member.modalities,
            "cases": member.case_ids,
        }
        for name, member in split.members.items()
    ]
    rest = {key: value for key, value in data.items() if key != "institutions"}
    return {**rest, "server": members[0], "sites": members[1:]}


def _resolve(config: Config, folder: Path, source: str) -> Config:
    """Make paths absolute and modality sets explicit."""
    task_path = folder / config.task
    task = load_task(task_path if config.task.endswith(".toml") else config.task)
    members = [_resolve_member(member, task, folder, source) for member in config.members]
    owned = {name for member in members[1:] for name in member.modalities or ()}
    orphans = [name for name in task.modalities if name not in owned]
    if orphans:
        raise ConfigError(
            f"{source}: no site owns modality {orphans[0]!r}",
            remedy="give it to a site, or use a task description without it",
        )
    if set(members[0].modalities or ()) != set(task.modalities):
        raise ConfigError(
            f"{source}: server.modalities", remedy=f"the server needs all of: {', '.join(task.modalities)}"
        )
    cache = config.data.cache
    data = config.data.model_copy(update={"cache": None if cache is None else (folder / cache).resolve()})
    name = str(task_path.resolve()) if config.task.endswith(".toml") else config.task
    return config.model_copy(update={"server": members[0], "sites": tuple(members[1:]), "data": data, "task": name})


def _resolve_member(member: Member, task: Task, folder: Path, source: str) -> Member:
    try:
        modalities = task.ordered(task.modalities if member.modalities is None else member.modalities)
    except TaskError as error:
        raise ConfigError(f"{source}: member {member.id!r}: {str(error).rstrip('.')}") from error
    return member.model_copy(update={"modalities": modalities, "cohort": (folder / member.cohort).resolve()})


def place(data: dict[str, Any], path: list[str], value: Any) -> None:
    """Put a value into parsed TOML, in place.

    Args:
        data: Parsed configuration.
        path: Sections and key.
        value: What goes there.

    Raises:
        ConfigError: If something on the way is no section.
    """
    for part in path[:-1]:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ConfigError(f"override {'.'.join(path)!r}: {part!r} is not a section", remedy="override section.key")
    data[path[-1]] = value
