"""Writes `docs/reference/*.md` from the programs' own parsers: `python -P -m ops.cli_reference [--check]`.

What `--help` says and what the reference says are one thing. With `--check` nothing is written; the exit code is 1
where a file is not what it should be.
"""

# ruff: noqa: INP001  a program beside the files that it writes, not a part of the product

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from enum import EnumMeta
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer.main

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
PROGRAMS = {
    "fedmepd": "fedmepd.cli.main",
    "fedmepd-coordinator": "coordinator.cli.main",
    "fedmepd-admin": "coordinator.cli.admin.app",
    "fedmepd-agent": "site_agent.cli.main",
}
_HEAD = "<!-- made by `python -P -m ops.cli_reference` from the program itself; do not edit -->"
_WORDS: dict[Any, str] = {str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "PATH"}
_CODES = """## Exit codes

| code | meaning |
|---|---|
| 0 | success |
| 1 | the command ran and its verdict is negative, or a question was answered with no |
| 2 | bad input, or a fault that can be mended: one line on the standard error says what to do |
| 130 | interrupted |

`--debug` anywhere in the line adds the traceback of an error. `--install-completion` sets up completion for your shell,
and `--show-completion` prints it."""


def reference(name: str) -> str:
    """Return the page of a program."""
    app = importlib.import_module(PROGRAMS[name]).app
    root: Any = typer.main.get_command(app)
    found = list(_commands(root, name))
    table = [f"| [`{path}`](#{_anchor(path)}) | {_summary(command)} |" for path, command in found]
    head = [f"# {name}", _HEAD, _prose(root.help), "| command | what it does |\n|---|---|\n" + "\n".join(table), _CODES]
    return "\n\n".join([*head, *(_section(path, command) for path, command in found)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or check that they are what they should be; return the exit code."""
    parser = argparse.ArgumentParser(description="Write docs/reference from the programs.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page differs")
    check: bool = parser.parse_args(arguments).check
    stale = [name for name in PROGRAMS if _differs(name)]
    if check and stale:
        pages = ", ".join(f"{name}.md" for name in stale)
        sys.stderr.write(f"docs/reference is not what the programs say ({pages}): run python -P -m ops.cli_reference\n")
        return 1
    for name in stale:
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / f"{name}.md").write_text(reference(name), encoding="utf-8")
    return 0


def _differs(name: str) -> bool:
    path = FOLDER / f"{name}.md"
    return not path.exists() or path.read_text(encoding="utf-8") != reference(name)


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Return the commands below one, with all that is typed to reach them."""
    for name, below in getattr(command, "commands", {}).items():
        if below.hidden:
            continue
        if getattr(below, "commands", None):
            yield from _commands(below, f"{path} {name}")
        else:
            yield f"{path} {name}", below


def _section(path: str, command: Any) -> str:
    prose, examples = _split(command.help or "")
    parts = [f"## {path}", f"```\n{_synopsis(path, command)}\n```", prose]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help" and not p.hidden]
    if arguments:
        rows = (f"| `{_metavar(p)}` | {_cell(p.help)} | {_default(p)} |" for p in arguments)
        parts.append("| argument | meaning | default |\n|---|---|---|\n" + "\n".join(rows))
    if options:
        rows = (f"| {_names(p)} | {_cell(p.help)} | {_default(p)} | {_variable(p)} |" for p in options)
        parts.append("| option | meaning | default | variable |\n|---|---|---|---|\n" + "\n".join(rows))
    if examples:
        parts.append("Examples:\n\n```sh\n" + "\n".join(examples) + "\n```")
    return "\n\n".join(part for part in parts if part)


def _split(text: str) -> tuple[str, list[str]]:
    """Separate a command's help into what it says and its examples: `Example: ...`, or a list below `Examples`."""
    prose: list[str] = []
    examples: list[str] = []
    listed = False
    for paragraph in filter(None, (part.strip() for part in _plain(text).split("\n\n"))):
        if paragraph.startswith("Example: "):
            examples.append(paragraph.removeprefix("Example: "))
        elif listed:
            examples += [re.sub(r" {2,}", "  # ", line.strip()) for line in paragraph.split("\n")]
        elif paragraph != "Examples":
            prose.append(_escaped(paragraph))
        listed = paragraph == "Examples"
    return "\n\n".join(prose), examples


def _synopsis(path: str, command: Any) -> str:
    words = [path]
    for param in command.params:
        if param.name == "help" or getattr(param, "hidden", False):
            continue
        if param.param_type_name == "argument":
            words.append(_metavar(param) if param.required else f"[{_metavar(param)}]")
        elif param.required:
            words.append(f"{max(param.opts, key=len)} {_value(param)}")
    if any(p.param_type_name == "option" and not p.required and p.name != "help" for p in command.params):
        words.append("[OPTIONS]")
    return " ".join(words)


def _names(param: Any) -> str:
    flags = ", ".join(f"`{name}`" for name in sorted((*param.opts, *param.secondary_opts), key=len))
    if param.is_flag:
        return flags
    several = " (may be repeated)" if param.multiple else ""
    required = ", required" if param.required else ""
    value = _value(param).replace("|", "\\|")
    return f"{flags} `{value}`{several}{required}"


def _metavar(param: Any) -> str:
    name = str(param.metavar or param.name.upper())
    several = "" if param.nargs == 1 or name.endswith("...") else "..."
    return f"{name.rstrip('_')}{several}"


def _value(param: Any) -> str:
    if param.metavar:
        return str(param.metavar)
    kind = _bare(param.type_descriptor.annotation)
    choices = get_args(kind) if get_origin(kind) is Literal else list(kind) if isinstance(kind, EnumMeta) else ()
    if choices:
        return "|".join(str(getattr(choice, "value", choice)) for choice in choices)
    name = _WORDS.get(kind, str(getattr(kind, "__name__", kind)).upper())
    least, most = param.min, param.max
    limits = (f" ≥ {least}" if least is not None else "") + (f" ≤ {most}" if most is not None else "")
    return name + limits


def _bare(annotation: Any) -> Any:
    """Return the type of one value, of one that may be missing or repeated."""
    inner = [one for one in get_args(annotation) if one is not type(None)]
    return annotation if get_origin(annotation) is Literal or not inner else _bare(inner[0])


def _default(param: Any) -> str:
    if isinstance(param.show_default, str):
        return f"`{param.show_default}`"
    value = param.default
    if param.required or value is None or value in (False, "", ()) or callable(value) or not param.show_default:
        return ""
    if isinstance(value, (list, tuple)):
        return " ".join(f"`{getattr(one, 'value', one)}`" for one in value)
    return "on" if value is True else f"`{getattr(value, 'value', value)}`"


def _variable(param: Any) -> str:
    names = param.envvar or ()
    return " ".join(f"`{name}`" for name in ([names] if isinstance(names, str) else names))


def _summary(command: Any) -> str:
    first = _plain(command.help or "").strip().split("\n\n")[0]
    sentence = re.match(r".*?[.:;](?=\s|$)", " ".join(first.split()))
    return _cell((sentence.group() if sentence else first).rstrip(".:;") + ".")


def _prose(text: str | None) -> str:
    return _escaped(_plain(text or "").strip())


def _plain(text: str) -> str:
    """Return help without the marks of rich."""
    return re.sub(r"\[/?(?:bold|dim|italic|cyan|green|red|yellow|/)[^\]]*\]", "", text.replace("\\[", "["))


def _cell(text: str | None) -> str:
    return _escaped(_plain(" ".join((text or "").split()))).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Keep placeholders in angle brackets from being taken for HTML, code spans apart."""
    return "".join(
        part if n % 2 else part.replace("<", "&lt;").replace("*", "\\*")
        for n, part in enumerate(re.split(r"(`[^`]*`)", text))
    )


def _anchor(path: str) -> str:
    return path.replace(" ", "-")


if __name__ == "__main__":
    raise SystemExit(main())
