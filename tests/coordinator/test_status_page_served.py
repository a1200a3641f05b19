"""The status page of a whole coordinator: by configuration, on a port of its own, with a real run behind it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from coordinator.errors import ConfigError
from protos.v1 import admin_pb2 as messages
from protos.v1.admin_pb2_grpc import AdminStub
from security.folders import IdentityFolder
from security.identity import Role
from tests.coordinator.status_at_hand import Visitor
from tests.federation.hospital import MODALITIES, RUN, Hospital, IdleLead


def link(folder: IdentityFolder, members: str) -> messages.CreateStatusLinkReply:
    """Ask for a link as the command does."""
    loaded = folder.load(None)
    credentials = grpc.ssl_channel_credentials(loaded.trust.root_pem, loaded.tls_key_pem, loaded.chain_pem)
    with grpc.secure_channel(members, credentials) as channel:
        return AdminStub(channel).CreateStatusLink(messages.CreateStatusLinkRequest(), timeout=20)


def seen(folder: IdentityFolder, page: str, scratch: Path) -> str:
    """Return what somebody sees who shows a certificate."""
    loaded = folder.load(None)
    reply = Visitor(f"localhost:{page.rpartition(':')[2]}", loaded.trust.root_pem, scratch, loaded).ask("/")
    assert reply.status == 200
    return reply.text


def test_a_coordinator_serves_the_page_of_its_run(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, dict.fromkeys("abc", MODALITIES))
    hospital.found()
    lead = IdleLead(tmp_path / "lead")

    async def play() -> tuple[str, str, messages.CreateStatusLinkReply]:
        async with hospital.serving(lead, status_page="127.0.0.1:0") as made:
            assert made.status_page is not None
            clients = await hospital.open(made)
            eve = await asyncio.to_thread(hospital.enrol, made, Role.AUDITOR, "eve")
            before = await asyncio.to_thread(seen, eve, made.status_page, tmp_path)
            await made.runs.start(RUN.format(rounds=1, federation=""), actor="test")
            await asyncio.gather(*(client.take_part() for client in clients.values()))
            made.registry.clock = lambda clock=made.registry.clock: clock() + 5.0  # past what was read
            after = await asyncio.to_thread(seen, eve, made.status_page, tmp_path)
            for client in clients.values():
                await client.close()
            return before, after, await asyncio.to_thread(link, eve, made.addresses[0])

    before, after, reply = asyncio.run(play())
    assert "test: no run" in before
    assert "completed: run test" in after
    assert "<b>1</b> of 1" in after
    assert "list 1" in after
    assert reply.address.startswith("127.0.0.1:")
    assert len(reply.ticket) == 43


def test_a_page_is_a_choice_and_its_port_its_own(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, {"a": MODALITIES})
    hospital.found()
    lead = IdleLead(tmp_path / "lead")

    async def play() -> str:
        async with hospital.serving(lead) as made:
            assert made.status_page is None
            eve = await asyncio.to_thread(hospital.enrol, made, Role.AUDITOR, "eve")
            with pytest.raises(grpc.RpcError) as caught:
                await asyncio.to_thread(link, eve, made.addresses[0])
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        async with hospital.serving(lead, status_page="127.0.0.1:0") as made:
            assert made.status_page is not None
            taken = made.status_page
            other = Hospital(tmp_path / "other", {"a": MODALITIES})
            other.folder.mkdir()
            other.found()
            with pytest.raises(ConfigError) as refused:
                async with other.serving(IdleLead(tmp_path / "other-lead"), status_page=taken):
                    pass
        return str(refused.value)

    assert "status_page.listen" in asyncio.run(play())
