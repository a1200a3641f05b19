"""Chunks written and read as bytes: the same bytes and the same pieces as by way of the generated classes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protos import codec
from protos.errors import MalformedMessageError
from protos.terms import MAX_CHUNK_BYTES, ArtefactRef
from protos.v1 import common_pb2 as common
from protos.v1 import federation_pb2 as federation

REF = ArtefactRef(sha256="0" * 64, size=1 << 40)
offsets = st.integers(0, (1 << 40) - 300)
pieces = st.binary(min_size=1, max_size=300)
KINDS = {
    "chunk": (codec.parse_chunk, codec.decode_chunk, common.Chunk),
    "upload": (codec.parse_upload_chunk, codec.decode_upload_chunk, federation.UploadMessage),
}


def outcome(decode, message):
    """Return what comes of a message: offset and bytes, or what is wrong with it."""
    try:
        offset, data = decode(message, REF)
    except MalformedMessageError as error:
        return error.problem
    return offset, bytes(data)


def upload(offset, data):
    """Return an upload message whose chunk is read from here."""

    def read(view):
        view[:] = data

    chunk = codec.read_upload_chunk(offset, len(data), read)
    assert (chunk.offset, chunk.length, chunk.end) == (offset, len(data), offset + len(data))
    return chunk.message


@given(offset=offsets, data=pieces)
@example(offset=0, data=b"x")
@example(offset=127, data=bytes(127))
@example(offset=128, data=bytes(128))
def test_what_is_written_is_what_the_generated_classes_write(offset, data):
    assert codec.dump_chunk(offset, data) == codec.encode_chunk(offset, data).SerializeToString()
    assert upload(offset, data) == codec.encode_upload_chunk(offset, data).SerializeToString()


@given(offset=offsets, data=pieces)
def test_what_was_written_is_read(offset, data):
    assert codec.parse_chunk(codec.dump_chunk(offset, data), REF) == (offset, data)
    assert codec.parse_upload_chunk(upload(offset, data), REF) == (offset, data)


def test_a_chunk_that_cannot_be_read_is_no_message():
    def read(view):
        view[:1] = b"x"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        codec.read_upload_chunk(0, 10, read)


def test_the_data_are_a_view_of_the_message():
    message = upload(5, bytes(1000))
    data = codec.parse_upload_chunk(message, REF)[1]
    assert isinstance(data, memoryview)
    assert data.obj is message


@pytest.mark.parametrize(
    "message",
    [
        b"\x12\x01x\x08\x07",  # the data first
        b"\x08\x05\x08\x07\x12\x01x",  # the offset twice: the last one counts
        b"\x08\x07\x12\x01y\x12\x01x",  # the data twice
        b"\x08\x87\x00\x12\x81\x00x",  # numbers longer than they need be
        b"\x08\x07\x12\x01x\x18\x01",  # a field that came later
    ],
)
def test_any_way_to_write_a_chunk_is_read(message):
    assert codec.parse_chunk(message, REF) == (7, b"x")
    assert codec.parse_upload_chunk(b"\x12" + bytes([len(message)]) + message, REF) == (7, b"x")


def test_an_upload_chunk_in_two_parts_is_read():
    assert codec.parse_upload_chunk(b"\x12\x02\x08\x07" + b"\x12\x03\x12\x01x", REF) == (7, b"x")


@pytest.mark.parametrize("kind", KINDS)
@given(message=st.binary(max_size=40) | st.tuples(offsets, pieces).map(lambda piece: codec.dump_chunk(*piece)[:-1]))
@example(message=b"")
@example(message=b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x12\x01x")  # more than an uint64
@example(message=b"\x12\x00")
def test_whatever_comes_is_what_the_generated_classes_make_of_it(kind, message):
    parse, decode, made = KINDS[kind]
    try:
        wanted = outcome(decode, made.FromString(message))
    except Exception:  # noqa: BLE001  protobuf's own, of whichever implementation
        wanted = f"{made.DESCRIPTOR.name}: not a message"
    assert outcome(parse, message) == wanted


@pytest.mark.parametrize("size", [0, MAX_CHUNK_BYTES + 1])
def test_chunks_of_no_size_that_is_allowed_are_refused(size):
    with pytest.raises(MalformedMessageError, match=rf"UploadMessage.chunk.data: {size} bytes"):
        codec.parse_upload_chunk(upload(3, bytes(size)), REF)


def test_a_chunk_beyond_the_end_is_refused():
    with pytest.raises(MalformedMessageError, match=r"Chunk.offset: 9 \+ 2 bytes"):
        codec.parse_chunk(codec.dump_chunk(9, b"xy"), ArtefactRef(sha256="0" * 64, size=10))
