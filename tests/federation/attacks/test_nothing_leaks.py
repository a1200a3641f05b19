"""Everything that leaves an agent in secure rounds is recorded: nothing in it tells the update, and no secret is in it.

The same for what people read at the site: logs, audit log, status file. And for what a real coordinator has on its disk
when real agents have gone through a run with it over TLS.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib

import numpy as np
import pytest
from structlog.testing import capture_logs

from coordinator.state import RunStatus
from security import sealed
from site_agent.audit import FILE_NAME
from site_agent.secagg.keeper import Keeper
from tests.federation.attacks.real_agents import RealAgent
from tests.federation.attacks.victim import WINDOW_BYTES, Victim
from tests.federation.test_secure_rounds_over_tls import SITES, Play


@pytest.fixture
def victim(tmp_path):
    return Victim(tmp_path)


@pytest.mark.parametrize("gone", [(), ("e",)], ids=["everybody stays", "one drops out"])
def test_nothing_that_is_sent_in_two_rounds_tells_the_update_or_a_secret(victim, gone):
    victim.whole(without=gone)
    victim.assert_nothing_leaked(shares=False)
    wire = victim.script.wire
    assert victim.script.uploaded in wire, "it is the wire that was recorded"
    victim.next_round()
    if not gone:
        victim.whole()
        for piece in victim.clear(2):
            assert piece not in victim.traces()
        assert len({state.mask_private for state, _ in victim.states}) == 2, "each round has keys of its own"
    victim.assert_nothing_leaked(shares=False)


def test_the_recorder_would_find_each_of_the_things_that_it_looks_for(victim):
    """In a plain wire each of them is found, raw or spelled: the test above can fail."""
    victim.up_to("confirm")
    victim.assert_nothing_leaked()
    clear = victim.cohort.vector("a").tobytes()
    for leak in (
        clear,
        clear[8 : 8 + WINDOW_BYTES],
        hashlib.sha256(clear).hexdigest().encode(),
        victim.state.mask_private,
        victim.state.channel_private.hex().encode(),
        base64.b64encode(victim.state.seeds[-1]),
        victim.states[-1][1],
        victim.state.shares["b"][0],
    ):
        victim.script.sent.append(b"before" + leak + b"after")
        with pytest.raises(AssertionError, match="left the site"):
            victim.assert_nothing_leaked()
        victim.script.sent.pop()
    victim.log.append({"event": "debug", "seed": victim.state.seeds[0].hex()})
    with pytest.raises(AssertionError, match="a secret left the site"):
        victim.assert_nothing_leaked()


def test_a_masked_vector_looks_like_noise_beside_the_clear_one(victim):
    victim.up_to("confirm")
    masked = np.frombuffer(victim.script.uploaded, "<u4")
    clear = victim.cohort.vector("a")
    assert not (masked == clear).any()
    assert not (masked - clear == 0).any()
    assert len(np.unique(masked - clear)) == len(clear), "every value has a mask of its own"


def test_words_for_people_hold_no_secret_objects(victim):
    """States, knowledge and answers may end up in a traceback: what prints them prints no secret."""
    victim.up_to("unmask")
    shown = repr(victim.state) + str(victim.state) + repr(victim.cohort.knowledge("a"))
    for secret in victim.secrets():
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
    for share in victim.received():
        assert repr(share)[2:-1] not in shown


# -- a real coordinator ---------------------------------------------------------------------------------------------


def test_real_agents_leave_nothing_of_their_updates_with_a_real_coordinator(tmp_path, monkeypatch):
    """Its database, its blobs, its spool and its log are searched; and the sums are those of the clear updates."""
    monkeypatch.setattr(sealed, "_LOG2_COST", 10)
    stage = Play(tmp_path)
    agents = []

    async def run():
        async with stage.hospital.serving(stage.lead) as stage.made:
            bare = await stage.hospital.open(stage.made)
            for site in bare.values():
                await site.close()
            agents.extend(RealAgent(stage, name) for name in SITES)
            await stage.start(rounds=2)
            stage.sites = {one.name: one for one in agents}
            assert await asyncio.gather(*(one.work() for one in agents)) == [0] * len(SITES)
            assert await stage.over() is RunStatus.COMPLETED

    with capture_logs() as lines:
        asyncio.run(asyncio.wait_for(run(), 60))
    assert stage.lead.sums == [stage.clear_sum(SITES, number) for number in (1, 2)]
    kept = b"".join(path.read_bytes() for path in (tmp_path / "coordinator").rglob("*") if path.is_file())
    kept += b"".join(path.read_bytes() for one in agents for path in (one.data / FILE_NAME, one.data / "status.json"))
    found = kept + repr(lines).encode()
    assert len(found) > 10_000
    for one in agents:
        assert_not_in(found, one)


def assert_not_in(found, site):
    for words in site.inputs.values():
        content = words.astype("<u4").tobytes()
        for piece in (hashlib.sha256(content).digest(), hashlib.sha256(content).hexdigest().encode()):
            assert piece not in found, f"the hash of {site.name}'s update"
        for at in range(0, len(content) - WINDOW_BYTES, WINDOW_BYTES):
            assert content[at : at + WINDOW_BYTES] not in found, f"a part of {site.name}'s update"
    assert len(site.states) >= 10, "two rounds of five steps"
    for state, key in site.states:
        for secret in (key, state.channel_private, state.mask_private, *state.seeds):
            for form in (secret, secret.hex().encode(), base64.b64encode(secret)):
                assert form not in found, f"a secret of {site.name}"
    assert list(Keeper(site.data).attempts()) == []
