"""Messages that carry chunks, written and read as bytes: an upload's data is not copied, a download's once.

The generated classes copy a mebibyte four times to send it and twice to receive it, which costs more than hashing it.
What is written here is byte for byte what they write. What is read may be written in any way that protobuf allows:
whatever is not in the usual order goes through the generated classes. Total as the rest of the codec.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from protos.codec.checks import refuse
from protos.codec.transfers import Piece, checked_piece, decode_chunk, decode_upload_chunk
from protos.terms import ArtefactRef
from protos.v1 import common_pb2 as common
from protos.v1 import federation_pb2 as federation

_OFFSET, _DATA, _CHUNK = b"\x08", b"\x12", b"\x12"  # field number and type, as they stand before a field
_LONGEST_VARINT = 10


def dump_chunk(offset: int, data: bytes | memoryview) -> bytes:
    """Return a `Chunk` as it is sent.

    Args:
        offset: Of the first byte.
        data: The piece.
    """
    return b"".join((_chunk_head(offset, len(data)), data))


@dataclass(frozen=True, slots=True)
class UploadChunk:
    """An `UploadMessage` as it is sent, and which chunk of the artefact it brings.

    Attributes:
        offset: Of the chunk's first byte.
        length: Of the chunk.
        message: What is sent.
    """

    offset: int
    length: int
    message: bytes = field(repr=False)

    @property
    def end(self) -> int:
        """Where the chunk ends."""
        return self.offset + self.length


def read_upload_chunk(offset: int, length: int, read: Callable[[memoryview], None]) -> UploadChunk:
    """Return a chunk in the message that brings it, into which it is read.

    Args:
        offset: Of the first byte.
        length: Of the piece, in bytes.
        read: Fills a view of so many bytes.
    """
    inner = _chunk_head(offset, length)
    head = _CHUNK + _varint(len(inner) + length) + inner
    message = io.BytesIO()
    message.seek(len(head) + length - 1)
    message.write(b"\0")  # as long as it will be
    with message.getbuffer() as view, view[len(head) :] as data:
        view[: len(head)] = head
        read(data)
    return UploadChunk(offset, length, message.getvalue())  # the buffer itself, since nobody else has it


def parse_chunk(message: bytes, ref: ArtefactRef) -> Piece:
    """Return offset and bytes of a `Chunk` as it was received; the bytes are a view of it.

    Raises:
        MalformedMessageError: As `decode_chunk`, or because it is no such message.
    """
    piece = _piece(memoryview(message))
    if piece is not None:
        return checked_piece(*piece, ref)
    try:
        return decode_chunk(common.Chunk.FromString(message), ref)
    except DecodeError:
        refuse("Chunk", "not a message")


def parse_upload_chunk(message: bytes, ref: ArtefactRef) -> Piece:
    """Return offset and bytes of an `UploadMessage` with a chunk as it was received; the bytes are a view of it.

    Raises:
        MalformedMessageError: As `decode_upload_chunk`, or because it is no such message.
    """
    view = memoryview(message)
    length, start = _read_varint(view, 1) if view[:1] == _CHUNK else (-1, 0)
    piece = _piece(view[start:]) if start + length == len(view) else None
    if piece is not None:
        return checked_piece(*piece, ref, "UploadMessage.chunk")
    return decode_upload_chunk(parse_upload_message(message), ref)


def parse_upload_message(message: bytes) -> federation.UploadMessage:
    """Return an `UploadMessage` as it was received.

    Raises:
        MalformedMessageError: If it is none.
    """
    try:
        return federation.UploadMessage.FromString(message)
    except DecodeError:
        refuse("UploadMessage", "not a message")


def _chunk_head(offset: int, length: int) -> bytes:
    """Return what stands before a chunk's data."""
    before = _OFFSET + _varint(offset) if offset else b""
    return before + _DATA + _varint(length)


def _piece(view: memoryview) -> tuple[int, memoryview] | None:
    """Return offset and data of a chunk that has just these, in order, each once; None of another."""
    offset, start = _read_varint(view, 1) if view[:1] == _OFFSET else (0, 0)
    if offset < 0 or view[start : start + 1] != _DATA:
        return None
    length, start = _read_varint(view, start + 1)
    return (offset, view[start:]) if start + length == len(view) else None


def _varint(value: int) -> bytes:
    """Write a number, seven bits in each byte, the lowest first."""
    written = bytearray()
    while value > 0x7F:  # noqa: PLR2004  what seven bits hold
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _read_varint(view: memoryview, start: int) -> tuple[int, int]:
    """Return a number and where it ends; -1 if there is none that an uint64 holds."""
    value = 0
    for count, byte in enumerate(view[start : start + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * count)
        if byte <= 0x7F:  # noqa: PLR2004  the last one
            return (value if value < 1 << 64 else -1), start + count + 1
    return -1, start
