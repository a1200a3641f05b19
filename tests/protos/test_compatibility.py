"""Every break of the released schema is found and named; additions are not (PROTOCOL 1.6)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from protos import compatibility

ROOT = Path(__file__).parents[2]


def find(items: Any, name: str) -> Any:
    return next(item for item in items if item.name == name)


def message(schema: FileDescriptorSet, name: str) -> Any:
    return next(made for file in schema.file for made in file.message_type if made.name == name)


def field(schema: FileDescriptorSet, path: str) -> Any:
    owner, name = path.split(".")
    return find(message(schema, owner).field, name)


def service(schema: FileDescriptorSet, name: str) -> Any:
    return next(made for file in schema.file for made in file.service if made.name == name)


def method(schema: FileDescriptorSet, path: str) -> Any:
    owner, name = path.split(".")
    return find(service(schema, owner).method, name)


def phase(schema: FileDescriptorSet) -> Any:
    return next(made for file in schema.file for made in file.enum_type if made.name == "Phase")


def drop(items: Any, name: str) -> None:
    items.remove(find(items, name))


def add(owner: DescriptorProto, name: str, number: int) -> None:
    owner.field.add(
        name=name, number=number, type=FieldDescriptorProto.TYPE_UINT64, label=FieldDescriptorProto.LABEL_OPTIONAL
    )


def drop_service(schema: FileDescriptorSet, name: str) -> None:
    for file in schema.file:
        for made in list(file.service):
            if made.name == name:
                file.service.remove(made)


def drop_message(schema: FileDescriptorSet, name: str) -> None:
    for file in schema.file:
        for made in list(file.message_type):
            if made.name == name:
                file.message_type.remove(made)


def drop_enum(schema: FileDescriptorSet) -> None:
    for file in schema.file:
        del file.enum_type[:]


Change = Callable[[FileDescriptorSet], Any]
P = "fedmepd.v1."
BREAKS: dict[str, tuple[Change, str]] = {
    "field removed": (lambda s: drop(message(s, "Chunk").field, "data"), f"field {P}Chunk.data: removed"),
    "field renumbered": (
        lambda s: setattr(field(s, "Chunk.data"), "number", 9),
        f"field {P}Chunk.data: number 2 became 9",
    ),
    "field renamed": (
        lambda s: setattr(field(s, "Chunk.data"), "name", "bytes"),
        f"field {P}Chunk.data: number 2 is now bytes",
    ),
    "field retyped": (
        lambda s: setattr(field(s, "Chunk.offset"), "type", FieldDescriptorProto.TYPE_INT64),
        f"field {P}Chunk.offset: type uint64 became int64",
    ),
    "field of another message": (
        lambda s: setattr(field(s, "Train.anchors"), "type_name", ".fedmepd.v1.Chunk"),
        f"field {P}Train.anchors: type {P}Artefact became {P}Chunk",
    ),
    "field relabelled": (
        lambda s: setattr(field(s, "Train.segments"), "label", FieldDescriptorProto.LABEL_OPTIONAL),
        f"field {P}Train.segments: label repeated became optional",
    ),
    "field out of its oneof": (
        lambda s: field(s, "Instruction.wait").ClearField("oneof_index"),
        f"field {P}Instruction.wait: oneof task became none",
    ),
    "message removed": (lambda s: drop_message(s, "Chunk"), f"message {P}Chunk: removed"),
    "enumeration removed": (drop_enum, f"enum {P}Phase: removed"),
    "value removed": (
        lambda s: drop(phase(s).value, "PHASE_DONE"),
        f"enum value {P}Phase.PHASE_DONE: removed",
    ),
    "value renumbered": (
        lambda s: setattr(find(phase(s).value, "PHASE_DONE"), "number", 77),
        f"enum value {P}Phase.PHASE_DONE: number 11 became 77",
    ),
    "nested value removed": (
        lambda s: drop(message(s, "Declined").enum_type[0].value, "CAUSE_UPDATE"),
        f"enum value {P}Declined.Cause.CAUSE_UPDATE: removed",
    ),
    "service removed": (lambda s: drop_service(s, "Enrolment"), f"service {P}Enrolment: removed"),
    "method removed": (
        lambda s: drop(service(s, "Federation").method, "Next"),
        f"method {P}Federation.Next: removed",
    ),
    "method of another request": (
        lambda s: setattr(method(s, "Federation.Next"), "input_type", ".fedmepd.v1.Wait"),
        f"method {P}Federation.Next: input type .{P}NextRequest became .{P}Wait",
    ),
    "method of another reply": (
        lambda s: setattr(method(s, "Federation.Next"), "output_type", ".fedmepd.v1.Wait"),
        f"method {P}Federation.Next: output type .{P}Instruction became .{P}Wait",
    ),
    "method that streams": (
        lambda s: setattr(method(s, "Federation.Next"), "server_streaming", True),
        f"method {P}Federation.Next: server streaming False became True",
    ),
    "method that streams no more": (
        lambda s: setattr(method(s, "Federation.Upload"), "client_streaming", False),
        f"method {P}Federation.Upload: client streaming True became False",
    ),
}


def reserved_number(schema: FileDescriptorSet) -> None:
    message(schema, "Wait").reserved_range.add(start=5, end=8)
    message(schema, "Wait").reserved_name.append("old")
    phase(schema).reserved_range.add(start=20, end=21)


@pytest.mark.parametrize("what", BREAKS)
def test_a_break_is_named_in_one_line(what: str) -> None:
    change, line = BREAKS[what]
    changed = compatibility.current_schema()
    change(changed)
    assert line in compatibility.breaks(compatibility.current_schema(), changed)


@pytest.mark.parametrize("number", [5, 7])
def test_a_reserved_number_is_not_used_again(number: int) -> None:
    released, changed = compatibility.current_schema(), compatibility.current_schema()
    reserved_number(released)
    add(message(changed, "Wait"), "new", number)
    assert compatibility.breaks(released, changed) == [f"field {P}Wait.new: number {number} is reserved"]


def test_a_reserved_name_is_not_used_again() -> None:
    released, changed = compatibility.current_schema(), compatibility.current_schema()
    reserved_number(released)
    add(message(changed, "Wait"), "old", 8)
    assert compatibility.breaks(released, changed) == [f"field {P}Wait.old: the name is reserved"]


def test_a_reserved_number_of_an_enumeration_is_not_used_again() -> None:
    released, changed = compatibility.current_schema(), compatibility.current_schema()
    reserved_number(released)
    phase(changed).value.add(name="PHASE_NEW", number=21)
    assert compatibility.breaks(released, changed) == [f"enum value {P}Phase.PHASE_NEW: number 21 is reserved"]


def test_additions_break_nothing() -> None:
    changed = compatibility.current_schema()
    add(message(changed, "Wait"), "new", 2)
    changed.file[0].message_type.add(name="New")
    phase(changed).value.add(name="PHASE_NEW", number=13)
    service(changed, "Federation").method.add(name="New", input_type=".x", output_type=".y")
    assert compatibility.breaks(compatibility.current_schema(), changed) == []


def test_several_breaks_have_a_line_each() -> None:
    assert len(compatibility.breaks(compatibility.current_schema(), FileDescriptorSet())) > 50


def test_the_schema_breaks_nothing_that_was_released(capsys: pytest.CaptureFixture[str]) -> None:
    assert compatibility.main() == 0
    assert capsys.readouterr().out == ""


def test_the_command_names_breaks_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = compatibility.current_schema()
    drop(message(changed, "Chunk").field, "data")
    monkeypatch.setattr(compatibility, "current_schema", lambda: changed)
    assert compatibility.main() == 1
    assert capsys.readouterr().out == f"field {P}Chunk.data: removed\n"


def test_the_generated_code_holds_the_schema_that_would_be_released(tmp_path: Path) -> None:
    """`release.sh` compiles the files, the check reads the generated code: both see the same schema."""
    out = tmp_path / "schema.binpb"
    files = [f"protos/v1/{name}.proto" for name in ("common", "enrolment", "federation", "admin")]
    include = f"-I{ROOT}"
    assert protoc.main([sys.executable, include, "--include_imports", f"--descriptor_set_out={out}", *files]) == 0
    compiled, generated = compatibility.released_schema(out), compatibility.current_schema()
    assert compatibility.breaks(compiled, generated) == compatibility.breaks(generated, compiled) == []


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_released_schema_that_cannot_be_read_is_said_in_one_line(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "v1.binpb"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(
        compatibility, "released_schema", lambda: compatibility.FileDescriptorSet.FromString(path.read_bytes())
    )
    assert compatibility.main() == 1
    assert len(capsys.readouterr().out.splitlines()) == 1
