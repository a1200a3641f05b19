"""Artefacts and their transfers: what is named, asked for, and sent in chunks (PROTOCOL 7)."""

from __future__ import annotations

from protos.codec.checks import (
    HASH_BYTES,
    MAX_ARTEFACT_BYTES,
    chosen,
    exactly,
    integer,
    present,
    refuse,
)
from protos.terms import MAX_CHUNK_BYTES, ArtefactRef
from protos.v1 import common_pb2 as common
from protos.v1 import federation_pb2 as federation

Piece = tuple[int, bytes | memoryview]  # offset of the first byte, bytes


def encode_artefact(ref: ArtefactRef) -> common.Artefact:
    """Return the message that names an artefact."""
    return common.Artefact(sha256=bytes.fromhex(ref.sha256), size=ref.size)


def decode_artefact(message: common.Artefact, where: str = "Artefact") -> ArtefactRef:
    """Return what a message names.

    Raises:
        MalformedMessageError: Naming the field.
    """
    digest = exactly(message.sha256, f"{where}.sha256", HASH_BYTES)
    size = integer(message.size, f"{where}.size", most=MAX_ARTEFACT_BYTES)
    return ArtefactRef(sha256=digest.hex(), size=size)


def encode_chunk(offset: int, data: bytes) -> common.Chunk:
    """Return the message that carries a piece."""
    return common.Chunk(offset=offset, data=data)


def decode_chunk(message: common.Chunk, ref: ArtefactRef, where: str = "Chunk") -> Piece:
    """Return offset and bytes of a piece of an artefact.

    Args:
        message: The chunk.
        ref: What is being transferred.
        where: Path of the message, for errors.

    Raises:
        MalformedMessageError: If it is empty, too large, or reaches beyond the artefact's end.
    """
    return checked_piece(message.offset, message.data, ref, where)


def checked_piece(offset: int, data: bytes | memoryview, ref: ArtefactRef, where: str = "Chunk") -> Piece:
    """Check offset and bytes of a piece and return them.

    Raises:
        MalformedMessageError: As `decode_chunk`.
    """
    length = len(data)
    if not 1 <= length <= MAX_CHUNK_BYTES:
        refuse(f"{where}.data", f"{length} bytes, wanted 1 to {MAX_CHUNK_BYTES}")
    if offset + length > ref.size:
        refuse(f"{where}.offset", f"{offset} + {length} bytes is beyond the end, {ref.size}")
    return offset, data


def encode_download_request(ref: ArtefactRef, offset: int) -> common.DownloadRequest:
    """Return the request for an artefact from an offset on."""
    return common.DownloadRequest(artefact=encode_artefact(ref), offset=offset)


def decode_download_request(message: common.DownloadRequest) -> tuple[ArtefactRef, int]:
    """Return what is asked for, and from where on.

    Raises:
        MalformedMessageError: Naming the field.
    """
    present(message, "artefact", "DownloadRequest")
    ref = decode_artefact(message.artefact, "DownloadRequest.artefact")
    return ref, integer(message.offset, "DownloadRequest.offset", most=ref.size)


def encode_upload_start(ref: ArtefactRef) -> federation.UploadMessage:
    """Return the first message of an upload."""
    return federation.UploadMessage(start=encode_artefact(ref))


def decode_upload_start(message: federation.UploadMessage) -> ArtefactRef:
    """Return what an upload brings.

    Raises:
        MalformedMessageError: If this is not the first message of an upload.
    """
    if chosen(message, "message", "UploadMessage") != "start":
        refuse("UploadMessage.message", "a chunk, wanted the artefact that the upload brings")
    return decode_artefact(message.start, "UploadMessage.start")


def encode_upload_chunk(offset: int, data: bytes) -> federation.UploadMessage:
    """Return a later message of an upload."""
    return federation.UploadMessage(chunk=encode_chunk(offset, data))


def decode_upload_chunk(message: federation.UploadMessage, ref: ArtefactRef) -> Piece:
    """Return the piece in a later message of an upload.

    Raises:
        MalformedMessageError: If it carries no piece of the artefact.
    """
    if chosen(message, "message", "UploadMessage") != "chunk":
        refuse("UploadMessage.message", "another beginning, wanted a chunk")
    return decode_chunk(message.chunk, ref, "UploadMessage.chunk")


def encode_upload_offset_request(ref: ArtefactRef) -> federation.UploadOffsetRequest:
    """Return the question how much of an upload is durable."""
    return federation.UploadOffsetRequest(artefact=encode_artefact(ref))


def decode_upload_offset_request(message: federation.UploadOffsetRequest) -> ArtefactRef:
    """Return which upload is asked about.

    Raises:
        MalformedMessageError: Naming the field.
    """
    present(message, "artefact", "UploadOffsetRequest")
    return decode_artefact(message.artefact, "UploadOffsetRequest.artefact")


def decode_offset(message: federation.UploadOffsetReply | federation.UploadReply, ref: ArtefactRef) -> int:
    """Return how much of an upload is durable.

    Raises:
        MalformedMessageError: If it is more than there is.
    """
    return integer(message.offset, f"{message.DESCRIPTOR.name}.offset", most=ref.size)
