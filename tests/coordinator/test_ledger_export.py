"""The ledger leaves in whole entries, to those who may read it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest

from coordinator.errors import NotFoundError
from coordinator.ledger_export import whole_lines
from protos.terms import CHUNK_BYTES
from protos.v1 import admin_pb2 as messages
from tests.coordinator.budgets_at_hand import Office, anchors, part, play
from tests.coordinator.served import Served, served


def fetched(path: Path) -> bytes:
    async def read() -> bytes:
        found = bytearray()
        async with aclosing(whole_lines(path)) as pieces:
            async for offset, data in pieces:
                assert offset == len(found)
                found += data
        return bytes(found)

    return asyncio.run(read())


@pytest.mark.parametrize(
    ("content", "whole"),
    [(b"", 0), (b"one\n", 4), (b"one\ntw", 4), (b"tor", 0), (b"x" * 40 + b"\n" + b"y" * 20, 41)],
)
def test_an_entry_that_is_being_written_is_left_out(tmp_path: Path, content: bytes, whole: int) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(content)
    assert fetched(path) == content[:whole]


def test_a_large_ledger_comes_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    content = b"".join(b"%d %s\n" % (number, os.urandom(500).hex().encode()) for number in range(4200))
    path.write_bytes(content)
    assert len(content) > 2 * CHUNK_BYTES
    assert fetched(path) == content


def test_where_there_is_no_ledger_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no ledger of privacy budgets"):
        fetched(tmp_path / "ledger.jsonl")


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as made:
        yield made


def test_readers_fetch_the_ledger_as_it_stands(fed: Served, tmp_path: Path) -> None:
    """PROTOCOL 7.8."""
    with fed.stub() as stub:
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ExportLedger(messages.ExportLedgerRequest()))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        office = Office(tmp_path)
        play(office.play(anchors(), part()))
        office.close()
        path = fed.folder / "data" / "privacy" / "ledger.jsonl"
        path.parent.mkdir()
        path.write_bytes(office.path.read_bytes())
        chunks = list(stub.ExportLedger(messages.ExportLedgerRequest()))
    assert b"".join(chunk.data for chunk in chunks) == office.path.read_bytes()
