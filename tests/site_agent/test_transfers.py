"""Transfers over real TLS that are cut, shortened, damaged, stalled; restarts; full disks; bounded memory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc

import pytest

from protos import codec
from protos.terms import CHUNK_BYTES, ArtefactRef
from site_agent import transfers
from site_agent.errors import CorruptedError, StorageError, UnreachableError
from site_agent.transfers import Downloads, send
from tests.site_agent.fake_coordinator import FakeFederation, Faults, serving

CONTENT = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(256)) * 800 + b"end"  # 3.1 chunks
STALL_S = 5.0


def ref_of(content):
    return ArtefactRef(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


REF = ref_of(CONTENT)


def play(scenario, **faults):
    servicer = FakeFederation(blobs={REF.sha256: CONTENT}, faults=Faults(**faults))

    async def whole():
        async with serving(servicer) as link:
            await scenario(servicer, link)

    asyncio.run(whole())
    return servicer


def downloads(tmp_path, stall_s=STALL_S):
    return Downloads(tmp_path / "downloads", stall_s=stall_s)


def test_a_download_is_whole_hashed_and_named(tmp_path):
    seen = []

    async def scenario(_, link):
        here = downloads(tmp_path)
        await here.fetch(link, REF, lambda done, of: seen.append((done, of)))
        assert here.path(REF).read_bytes() == CONTENT
        assert here.has(REF)
        await here.fetch(link, REF)

    servicer = play(scenario)
    assert servicer.begins == [0], "what is here is not fetched again"
    assert seen[-1] == (REF.size, REF.size)
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == [REF.sha256]


def test_a_cut_download_goes_on_after_a_restart_where_it_was(tmp_path):
    async def scenario(_, link):
        with pytest.raises(UnreachableError):
            await downloads(tmp_path).fetch(link, REF)
        again = downloads(tmp_path)
        assert not again.has(REF)
        await again.fetch(link, REF)
        assert again.path(REF).read_bytes() == CONTENT

    assert play(scenario, cut_after=2 * CHUNK_BYTES).begins == [0, 2 * CHUNK_BYTES]


def test_a_shortened_download_is_not_taken_for_whole(tmp_path):
    async def scenario(_, link):
        here = downloads(tmp_path)
        with pytest.raises(UnreachableError, match="early"):
            await here.fetch(link, REF)
        await here.fetch(link, REF)
        assert here.path(REF).read_bytes() == CONTENT

    assert play(scenario, end_after=CHUNK_BYTES).begins == [0, CHUNK_BYTES]


def test_a_damaged_download_is_discarded_and_fetched_once_more(tmp_path):
    async def scenario(_, link):
        here = downloads(tmp_path)
        await here.fetch(link, REF)
        assert here.path(REF).read_bytes() == CONTENT

    assert play(scenario, damage_at=CHUNK_BYTES + 5).begins == [0, 0]


def test_a_download_that_is_damaged_twice_is_never_named(tmp_path):
    async def scenario(servicer, link):
        servicer.blobs[REF.sha256] = CONTENT[:-1] + b"X"
        here = downloads(tmp_path)
        with pytest.raises(CorruptedError):
            await here.fetch(link, REF)
        assert not here.has(REF)

    assert play(scenario).begins == [0, 0]


def test_a_stalled_download_is_given_up_and_goes_on(tmp_path):
    async def scenario(_, link):
        with pytest.raises(UnreachableError, match="does not go on"):
            await downloads(tmp_path, stall_s=0.3).fetch(link, REF)
        await downloads(tmp_path).fetch(link, REF)

    assert play(scenario, stall_after=CHUNK_BYTES).begins == [0, CHUNK_BYTES]


def test_a_partial_file_beyond_the_size_starts_anew(tmp_path):
    async def scenario(_, link):
        here = downloads(tmp_path)
        here.folder.mkdir()
        (here.folder / f"{REF.sha256}.part").write_bytes(CONTENT + b"more")
        await here.fetch(link, REF)

    assert play(scenario).begins == [0]


def test_a_full_disk_is_named_and_makes_room(tmp_path, monkeypatch):
    real, written = transfers.write_all, []

    def full(file, data):
        written.append(len(data))
        if len(written) > 2:
            raise OSError(28, "No space left on device")
        real(file, data)

    async def scenario(_, link):
        monkeypatch.setattr(transfers, "write_all", full)
        here = downloads(tmp_path)
        with pytest.raises(StorageError, match="full"):
            await here.fetch(link, REF)
        assert (here.folder / f"{REF.sha256}.part").stat().st_size == 0
        monkeypatch.setattr(transfers, "write_all", real)
        await here.fetch(link, REF)

    play(scenario)


def test_a_download_is_put_on_the_disk_as_it_comes_and_a_disk_that_fails_then_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(transfers, "_SYNCHRONISED_BYTES", 1)
    asked = []

    def fail(descriptor):
        asked.append(descriptor)
        raise OSError(5, "Input/output error")

    async def scenario(_, link):
        here = downloads(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(StorageError):
                await here.fetch(link, REF)
        assert not here.has(REF)
        await here.fetch(link, REF)
        assert here.path(REF).read_bytes() == CONTENT

    play(scenario)
    assert asked


def test_an_upload_reads_ahead_and_sends_every_byte_once_from_an_offset_on(tmp_path):
    seen, sent = [], []

    class Wire:
        async def upload_offset(self, _ref):
            return 5

        async def upload(self, ref, chunks, *, stall_s):
            del stall_s
            async for chunk in chunks:
                offset, data = codec.parse_upload_chunk(chunk.message, ref)
                assert (offset, len(data)) == (chunk.offset, chunk.length)
                assert offset == 5 + sum(map(len, sent))
                sent.append(bytes(data))
            return ref.size

    path = upload_file(tmp_path)
    asyncio.run(send(Wire(), REF, path, stall_s=STALL_S, progress=lambda done, of: seen.append((done, of))))
    assert b"".join(sent) == CONTENT[5:]
    assert max(map(len, sent)) == CHUNK_BYTES
    assert seen[-1] == (REF.size, REF.size)


def test_downloads_that_nobody_names_are_removed(tmp_path):
    here = downloads(tmp_path)
    here.folder.mkdir()
    for name in ("a" * 64, "b" * 64, "c" * 64 + ".part"):
        (here.folder / name).write_bytes(b"x")
    here.prune([ArtefactRef(sha256="a" * 64, size=1)])
    assert [path.name for path in here.folder.iterdir()] == ["a" * 64]


def upload_file(tmp_path):
    path = tmp_path / "contribution"
    path.write_bytes(CONTENT)
    return path


def test_an_upload_arrives_and_is_not_sent_twice(tmp_path):
    async def scenario(servicer, link):
        for _ in range(2):
            await send(link, REF, upload_file(tmp_path), stall_s=STALL_S)
        assert bytes(servicer.uploads[REF.sha256]) == CONTENT

    assert play(scenario).begins == [0]


def test_a_cut_upload_goes_on_from_what_is_durable(tmp_path):
    async def scenario(servicer, link):
        with pytest.raises(UnreachableError):
            await send(link, REF, upload_file(tmp_path), stall_s=STALL_S)
        await send(link, REF, upload_file(tmp_path), stall_s=STALL_S)
        assert bytes(servicer.uploads[REF.sha256]) == CONTENT

    assert play(scenario, cut_after=CHUNK_BYTES).begins == [0, CHUNK_BYTES]


def test_a_stalled_upload_is_given_up(tmp_path):
    async def scenario(_, link):
        with pytest.raises(UnreachableError, match="does not go on"):
            await send(link, REF, upload_file(tmp_path), stall_s=0.3)

    play(scenario, stall_after=CHUNK_BYTES)


def test_an_upload_that_arrived_damaged_says_so(tmp_path):
    async def scenario(servicer, link):
        with pytest.raises(CorruptedError):
            await send(link, REF, upload_file(tmp_path), stall_s=STALL_S)
        await send(link, REF, upload_file(tmp_path), stall_s=STALL_S)
        assert bytes(servicer.uploads[REF.sha256]) == CONTENT

    play(scenario, lost=1)


def test_an_upload_whose_file_is_gone_is_a_fault_of_the_disk(tmp_path):
    async def scenario(_, link):
        with pytest.raises(StorageError):
            await send(link, REF, tmp_path / "gone", stall_s=STALL_S)

    play(scenario)


def test_an_upload_whose_file_is_shorter_than_announced_is_a_fault_of_the_disk(tmp_path):
    async def scenario(servicer, link):
        path = upload_file(tmp_path)
        os.truncate(path, CHUNK_BYTES + 5)
        with pytest.raises(StorageError, match="shorter than it was"):
            await send(link, REF, path, stall_s=STALL_S)
        assert len(servicer.uploads.get(REF.sha256, b"")) <= CHUNK_BYTES

    play(scenario)


def test_a_download_needs_memory_for_a_few_chunks(tmp_path):
    content = bytes(48 << 20)
    ref = ref_of(content)
    sizes = []

    async def pieces(begin):
        for offset in range(begin, ref.size, CHUNK_BYTES):
            yield offset, content[offset : offset + CHUNK_BYTES]

    class Wire:
        def download(self, _ref, begin, *, stall_s):
            del stall_s
            return pieces(begin)

    async def whole():
        here = downloads(tmp_path)
        tracemalloc.start()
        await here.fetch(Wire(), ref)
        sizes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    asyncio.run(whole())
    assert sizes[0] < 6 * CHUNK_BYTES


def test_a_link_that_was_closed_says_so(tmp_path):
    async def whole():
        async with serving(FakeFederation()) as link:
            pass
        with pytest.raises(UnreachableError, match="no connection"):
            await downloads(tmp_path).fetch(link, REF)

    asyncio.run(whole())
