"""Full disks at either end, certificates out of their time, and a coordinator that moves to another host in mid-run."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coordinator import spool_writer
from coordinator.server import Coordinator
from coordinator.state import RunState, RunStatus
from security.folders import IdentityFolder, IssuerFolder
from security.pki.authority import issue
from security.pki.certificates import join_bundle
from security.pki.requests import verify_request
from site_agent import doctor, transfers
from site_agent.doctor import Verdict
from site_agent.errors import UnreachableError
from tests.federation.agents import data_of, start_agent, tools_of
from tests.federation.hospital import RUN, Hospital, IdleLead
from tests.federation.tcp_proxy import Proxy

SITES = {"a": ("flair", "t1ce"), "b": ("t1", "t2")}
TWO = "quorum = 2\ngrace_s = 0.0"
ONE = "quorum = 1\ngrace_s = 0.0"


@dataclass
class Scene:
    """A coordinator whose sites are enrolled."""

    hospital: Hospital
    lead: IdleLead
    made: Coordinator

    def agent(self, site: str, address: str = "") -> asyncio.Task[int]:
        return start_agent(tools_of(self.hospital, site, address or self.made.addresses[0], self.lead.layout))

    async def start(self, federation: str, rounds: int = 1) -> None:
        await self.made.runs.start(RUN.format(rounds=rounds, federation=federation), actor="test")

    @property
    def state(self) -> RunState:
        return self.made.runs.state(None)


def play(folder: Path, act: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        hospital, lead = Hospital(folder, SITES), IdleLead(folder / "lead")
        await asyncio.to_thread(hospital.found)
        async with hospital.serving(lead) as made:
            for site in (await hospital.open(made)).values():
                await site.close()
            await act(Scene(hospital, lead, made))

    asyncio.run(asyncio.wait_for(run(), 60))


def full(times: int, working: Callable[..., object]) -> Callable[..., object]:
    """Return a call that finds the disk full so many times."""
    left = [times]

    def call(*arguments: object) -> object:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return working(*arguments)

    return call


def test_uploads_wait_while_the_coordinators_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_writer.os, "pwrite", full(5, os.pwrite))

    async def act(scene: Scene) -> None:
        agents = [scene.agent(site) for site in SITES]
        await scene.start(TWO)
        assert await asyncio.gather(*agents) == [0, 0]
        assert scene.state.status is RunStatus.COMPLETED
        assert scene.state.round is not None
        assert scene.state.round.missing == ()
        assert len(scene.lead.sums) == 1

    play(tmp_path, act)


def test_a_site_whose_disk_is_full_declines_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = transfers.write_all

    def write(file: object, data: bytes) -> None:
        if "/agents/a/" in str(file.name):  # type: ignore[attr-defined]
            raise OSError(errno.ENOSPC, "No space left on device")
        writing(file, data)  # type: ignore[arg-type]

    monkeypatch.setattr(transfers, "write_all", write)

    async def act(scene: Scene) -> None:
        agents = [scene.agent(site) for site in SITES]
        await scene.start(ONE)
        assert await agents[1] == 0
        agents[0].cancel()
        await asyncio.gather(agents[0], return_exceptions=True)
        assert scene.state.status is RunStatus.COMPLETED
        assert scene.state.round is not None
        declined = scene.state.round.participant("a")
        assert declined is not None
        assert declined.status.value == "declined"
        assert declined.reason.startswith("storage: ")
        assert scene.state.round.contributing == ("b",)
        parts = list((data_of(scene.hospital, "a") / "downloads").glob("*.part"))
        assert sum(part.stat().st_size for part in parts) == 0, "the partial file gave its room back"

    play(tmp_path, act)


def reissue(hospital: Hospital, site: str, *, now: datetime, lifetime: timedelta) -> None:
    """Give a site another certificate, of other dates."""
    folder = IdentityFolder(data_of(hospital, site) / "identity")
    authority = IssuerFolder(hospital.folder / "coordinator" / "issuer").load(None)
    request = verify_request(folder.request_certificate(passphrase=None))
    leaf = issue(authority, folder.read_identity(), request.public_key, now=now, lifetime=lifetime)
    folder.install_certificate(join_bundle([leaf, authority.certificate]), now=now)


@pytest.mark.parametrize("what", ["expired", "not yet valid"])
def test_a_certificate_out_of_its_time_is_refused_and_the_doctor_says_so(tmp_path: Path, what: str) -> None:
    """The authority's own validity begins before; what is refused is the leaf."""

    async def act(scene: Scene) -> None:
        tools_of(scene.hospital, "a", scene.made.addresses[0], scene.lead.layout)
        if what == "expired":
            reissue(scene.hospital, "a", now=datetime.now(UTC), lifetime=timedelta(seconds=1))
            await asyncio.sleep(1.5)
        else:
            reissue(scene.hospital, "a", now=datetime.now(UTC) + timedelta(days=1), lifetime=timedelta(days=1))
        tools = tools_of(scene.hospital, "a", scene.made.addresses[0], scene.lead.layout)
        await tools.coordinator.reopen()
        with pytest.raises(UnreachableError, match="doctor") as refused:
            await tools.coordinator.hello()
        assert "coordinator" in str(refused.value)
        await tools.coordinator.close()
        found = await asyncio.to_thread(lambda: list(doctor.examine(tools.config, passphrase=None, check=dict)))
        (certificate,) = (finding for finding in found if finding.what == "certificate")
        assert certificate.verdict is Verdict.FAIL
        assert ("expired" if what == "expired" else "valid from") in certificate.text
        assert certificate.remedy

    play(tmp_path, act)


def test_a_coordinator_goes_on_elsewhere_in_the_middle_of_a_run(tmp_path: Path) -> None:
    """Its folder is copied to another place once a site is ready; the old place is never seen again."""

    async def run() -> None:
        here, lead = Hospital(tmp_path / "here", SITES), IdleLead(tmp_path / "lead")
        here.folder.mkdir()
        await asyncio.to_thread(here.found)
        async with Proxy("localhost:1").open() as proxy:
            async with here.serving(lead) as made:
                for site in (await here.open(made)).values():
                    await site.close()
                proxy.target = made.addresses[0]
                agents = {site: start_agent(tools_of(here, site, proxy.address, lead.layout)) for site in "a"}
                await made.runs.start(RUN.format(rounds=2, federation=TWO), actor="test")
                while not ready(made.runs.state(None)):  # noqa: ASYNC110  the test is no party
                    await asyncio.sleep(0.02)
                proxy.hang_up()
            there = Hospital(tmp_path / "there", SITES)
            shutil.copytree(here.folder / "coordinator", there.folder / "coordinator", symlinks=True)
            shutil.rmtree(here.folder / "coordinator")
            async with there.serving(lead) as made:
                proxy.target = made.addresses[0]
                agents["b"] = start_agent(tools_of(here, "b", proxy.address, lead.layout))
                assert await asyncio.gather(*agents.values()) == [0, 0]
                state = made.runs.state(None)
                assert state.status is RunStatus.COMPLETED
                assert state.round is not None
                assert (state.round.id.attempt, state.round.missing) == (1, ())
                assert len(lead.sums) == 2

    asyncio.run(asyncio.wait_for(run(), 60))


def ready(state: RunState) -> bool:
    known = None if state.round is None else state.round.participant("a")
    return known is not None and known.status.value == "ready"
