"""Whether the schema still understands what was released: each breaking change is named in a line of its own.

    python -P -m protos.compatibility      # exit 1 and one line per break; silent otherwise

The released schema is `released/v1.binpb`, a FileDescriptorSet that `release.sh` writes. Breaking are: anything removed
or renamed, another number, type, label or oneof of a field, another number of an enumeration's value, another type or
streaming of a method, and the use of a reserved number or name. Additions are not. What a change *means* no program
can check: PROTOCOL.md says it, and a new meaning needs a new version (PROTOCOL 1.6).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from google.protobuf.message import DecodeError

from protos.v1 import admin_pb2, common_pb2, enrolment_pb2, federation_pb2

RELEASED = Path(__file__).parent / "released" / "v1.binpb"
_FILES: tuple[FileDescriptor, ...] = (
    common_pb2.DESCRIPTOR,
    enrolment_pb2.DESCRIPTOR,
    federation_pb2.DESCRIPTOR,
    admin_pb2.DESCRIPTOR,
)


@dataclass(slots=True)
class _Schema:
    """Everything that a schema defines, by full name."""

    messages: dict[str, DescriptorProto] = field(default_factory=dict)
    enums: dict[str, EnumDescriptorProto] = field(default_factory=dict)
    services: dict[str, ServiceDescriptorProto] = field(default_factory=dict)


def current_schema() -> FileDescriptorSet:
    """Return the schema of the generated code."""
    schema = FileDescriptorSet()
    for file in _FILES:
        file.CopyToProto(schema.file.add())
    return schema


def released_schema(path: Path = RELEASED) -> FileDescriptorSet:
    """Return the schema that was released.

    Raises:
        OSError, google.protobuf.message.DecodeError: If it cannot be read.
    """
    return FileDescriptorSet.FromString(path.read_bytes())


def breaks(released: FileDescriptorSet, current: FileDescriptorSet) -> list[str]:
    """Return what in the current schema breaks the released one, one line each; empty if nothing does."""
    old, new = _schema(released.file), _schema(current.file)
    return [
        *_of_messages(old.messages, new.messages),
        *_of_enums(old.enums, new.enums),
        *_of_services(old.services, new.services),
    ]


def main() -> int:
    """Compare, print what breaks, and return the exit status."""
    try:
        released = released_schema()
    except (OSError, DecodeError) as error:
        print(f"{RELEASED.name} cannot be read ({type(error).__name__}). restore it, or run protos/release.sh.")
        return 1
    found = breaks(released, current_schema())
    for line in found:
        print(line)
    return 1 if found else 0


def _schema(files: Iterable[FileDescriptorProto]) -> _Schema:
    schema = _Schema()
    for file in files:
        prefix = f"{file.package}." if file.package else ""
        schema.enums |= {prefix + enum.name: enum for enum in file.enum_type}
        schema.services |= {prefix + service.name: service for service in file.service}
        for message in file.message_type:
            _collect(schema, prefix, message)
    return schema


def _collect(schema: _Schema, prefix: str, message: DescriptorProto) -> None:
    name = prefix + message.name
    schema.messages[name] = message
    schema.enums |= {f"{name}.{enum.name}": enum for enum in message.enum_type}
    for nested in message.nested_type:
        _collect(schema, f"{name}.", nested)


def _of_messages(old: Mapping[str, DescriptorProto], new: Mapping[str, DescriptorProto]) -> Iterator[str]:
    for name, message in old.items():
        if name not in new:
            yield f"message {name}: removed"
            continue
        yield from _of_fields(name, message, new[name])
        taken = [(made.name, made.number) for made in new[name].field]
        ranges = [(kept.start, kept.end) for kept in message.reserved_range]  # the end is exclusive here
        yield from _of_reserved(f"field {name}", taken, ranges, message.reserved_name)


def _of_fields(name: str, old: DescriptorProto, new: DescriptorProto) -> Iterator[str]:
    by_number = {made.number: made for made in new.field}
    by_name = {made.name: made for made in new.field}
    for known in old.field:
        what = f"field {name}.{known.name}"
        if known.name in by_name and by_name[known.name].number != known.number:
            yield f"{what}: number {known.number} became {by_name[known.name].number}"
        elif known.number not in by_number:
            yield f"{what}: removed"
        elif by_number[known.number].name != known.name:
            yield f"{what}: number {known.number} is now {by_number[known.number].name}"
        else:
            yield from _of_shape(what, _shape(known, old), _shape(by_number[known.number], new))


def _of_shape(what: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for aspect, before in old.items():
        if new[aspect] != before:
            yield f"{what}: {aspect} {before} became {new[aspect]}"


def _shape(known: FieldDescriptorProto, message: DescriptorProto) -> dict[str, str]:
    """Return what must not change of a field, in words."""
    kind = FieldDescriptorProto.Type.Name(known.type).removeprefix("TYPE_").lower()
    label = FieldDescriptorProto.Label.Name(known.label).removeprefix("LABEL_").lower()
    alone = "explicit" if known.proto3_optional else "none"
    oneof = message.oneof_decl[known.oneof_index].name if known.HasField("oneof_index") else "none"
    return {
        "type": known.type_name.removeprefix(".") or kind,
        "label": label,
        "oneof": alone if known.proto3_optional else oneof,
    }


def _of_enums(old: Mapping[str, EnumDescriptorProto], new: Mapping[str, EnumDescriptorProto]) -> Iterator[str]:
    for name, enum in old.items():
        if name not in new:
            yield f"enum {name}: removed"
            continue
        numbers = {made.name: made.number for made in new[name].value}
        for known in enum.value:
            if known.name not in numbers:
                yield f"enum value {name}.{known.name}: removed"
            elif numbers[known.name] != known.number:
                yield f"enum value {name}.{known.name}: number {known.number} became {numbers[known.name]}"
        ranges = [(kept.start, kept.end + 1) for kept in enum.reserved_range]  # the end is inclusive here
        yield from _of_reserved(f"enum value {name}", list(numbers.items()), ranges, enum.reserved_name)


def _of_reserved(
    what: str, taken: list[tuple[str, int]], ranges: list[tuple[int, int]], names: Iterable[str]
) -> Iterator[str]:
    kept = set(names)
    for name, number in taken:
        if any(start <= number < end for start, end in ranges):
            yield f"{what}.{name}: number {number} is reserved"
        if name in kept:
            yield f"{what}.{name}: the name is reserved"


def _of_services(old: Mapping[str, ServiceDescriptorProto], new: Mapping[str, ServiceDescriptorProto]) -> Iterator[str]:
    for name, service in old.items():
        if name not in new:
            yield f"service {name}: removed"
            continue
        methods = {made.name: made for made in new[name].method}
        for known in service.method:
            what = f"method {name}.{known.name}"
            if known.name not in methods:
                yield f"{what}: removed"
                continue
            made = methods[known.name]
            for aspect in ("input_type", "output_type", "client_streaming", "server_streaming"):
                before, after = getattr(known, aspect), getattr(made, aspect)
                if before != after:
                    yield f"{what}: {aspect.replace('_', ' ')} {before} became {after}"


if __name__ == "__main__":
    sys.exit(main())
