"""The documents say what the code does: keys, defaults, names, layers, examples, links between files."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import pytest

from fedmepd.config import Config, parse_config
from fedmepd.methods import METHODS
from fedmepd.task import from_dict

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "fedmepd/METHOD.md",
    "docs/architecture.md",
    "docs/configuration.md",
    "docs/researcher-guide.md",
    "ops/decisions/README.md",
    *(f"ops/decisions/{path.name}" for path in sorted((ROOT / "ops/decisions").glob("0*.md"))),
]
PRESETS = ("improved", "paper")
PRESENT = {"server": {"id": "server"}}  # what parse_config fills in
SPELLED_OUT = {"institutions.split", "institutions.cohort"}  # expanded before the model sees them


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def documented() -> dict[str, tuple[str, str]]:
    rows = re.findall(r"^\| `([\w.]+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \|", read("docs/configuration.md"), re.MULTILINE)
    return {key: (improved, paper) for key, improved, paper in rows}


def defaults(preset: str) -> dict[str, Any]:
    """Every key of the configuration with the value that holds if a file says nothing but the preset."""
    text = (resources.files("fedmepd") / "presets" / f"{preset}.toml").read_text()
    given = tomllib.loads(text) | PRESENT | {"run": {"preset": preset}}
    found: dict[str, Any] = {}
    for name, section in Config.model_fields.items():
        model = section.annotation if hasattr(section.annotation, "model_fields") else None
        if name == "sites":
            model = Config.model_fields["server"].annotation
        if model is None:
            found[name] = section.default
            continue
        found |= defaults_of(model, name, given.get(name, {}))
    return found


def defaults_of(model: Any, prefix: str, given: dict[str, Any]) -> dict[str, Any]:
    """The keys of a section and of the sections in it, which may be absent."""
    found: dict[str, Any] = {}
    for key, field in model.model_fields.items():
        written = field.alias or key
        inner = next((kind for kind in get_args(field.annotation) if hasattr(kind, "model_fields")), None)
        if inner is not None:
            found |= defaults_of(inner, f"{prefix}.{written}", given.get(written, {}))
            continue
        found[f"{prefix}.{written}"] = given.get(written, "required" if field.is_required() else field.default)
    return found


def value_of(cell: str) -> Any:
    if cell in {"required", "not set"}:
        return "required" if cell == "required" else None
    value = tomllib.loads(f"value = {cell.strip('`')}")["value"]
    return tuple(value) if isinstance(value, list) else value


def toml_blocks(document: str) -> list[dict[str, Any]]:
    return [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", read(document), re.DOTALL)]


def test_every_key_is_documented_and_nothing_else():
    assert set(documented()) - SPELLED_OUT == set(defaults("improved"))


@pytest.mark.parametrize("column", range(len(PRESETS)))
def test_documented_defaults_are_the_presets(column):
    wrong = {
        key: (documented()[key][column], value)
        for key, value in defaults(PRESETS[column]).items()
        if value_of(documented()[key][column]) != value
    }
    assert not wrong


@pytest.mark.parametrize("document", ["README.md", "docs/configuration.md", "docs/researcher-guide.md"])
def test_every_method_is_named(document):
    assert not [name for name in METHODS if f"`{name}`" not in read(document)]


@pytest.mark.parametrize("document", ["README.md", "docs/researcher-guide.md"])
def test_examples_are_valid_configurations_and_tasks(document, tmp_path):
    blocks = toml_blocks(document)
    assert blocks
    for block in (b for b in blocks if "regions" in b):
        task = from_dict(block, source=document)
        named = re.findall(r"`([\w-]+\.toml)`:\n\n```toml\nname = \"([\w-]+)\"", read(document))
        file = next(file for file, name in named if name == task.name)
        (tmp_path / file).write_text(re.search(rf'name = "{task.name}".*?```', read(document), re.DOTALL)[0][:-3])
    for block in (b for b in blocks if {"server", "institutions"} & set(b)):
        parse_config(block, source=document, folder=tmp_path)


def test_every_name_in_the_method_document_exists():
    names = re.findall(r"`(fedmepd(?:\.\w+)+)`", read("fedmepd/METHOD.md"))
    assert names
    assert not [name for name in set(names) if not exists(name)]


def exists(name: str) -> bool:
    """Look a dotted name up in the sources, which is quicker than to import them."""
    path, *rest = ROOT / "fedmepd", *name.split(".")[1:]
    while rest and ((path / rest[0]).is_dir() or (path / f"{rest[0]}.py").is_file()):
        path /= rest.pop(0)
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return not rest or rest[0] in defined(ast.parse(source.read_text(encoding="utf-8")))


def defined(module: ast.Module) -> set[str]:
    names = {node.name for node in module.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    targets = [t for node in module.body if isinstance(node, ast.Assign) for t in node.targets]
    imported = [alias for node in module.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    return names | {t.id for t in targets if isinstance(t, ast.Name)} | {a.asname or a.name for a in imported}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_between_files_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", read(document))
    local = [target for target in targets if not target.startswith("http")]
    assert not [target for target in local if not (ROOT / document).parent.joinpath(target).exists()]


def test_imports_follow_the_documented_layers():
    rows = re.findall(r"^\| [A-Z][\w ]+ \| (`[^|]+) \|", read("docs/architecture.md"), re.MULTILINE)
    order = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    found = {
        path.stem for path in (ROOT / "fedmepd").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert set(order) == found - {"__init__"}
    rank = {name: place for place, name in enumerate(order)}
    upward = [(own, other) for own, other in imports() if rank[own] > rank[other]]
    assert not upward


def imports() -> set[tuple[str, str]]:
    """Pairs of modules of which the first imports the second."""
    pairs = set()
    for path in (ROOT / "fedmepd").rglob("*.py"):
        own = path.relative_to(ROOT / "fedmepd").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fedmepd."):
                pairs.add((own, (node.module or "").split(".")[1]))
    return {pair for pair in pairs if pair[0] not in {pair[1], "__init__"}}
