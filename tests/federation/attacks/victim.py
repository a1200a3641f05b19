"""A real agent whose coordinator says what an attack needs it to say, with honest company and all its traces kept.

The agent is started anew for whatever it is told, and left when it has nothing more to do. Its disk, audit log, status
file and membership list are real; every byte that it sends, every line that it logs and every secret that it ever had
are remembered, so that each attack ends with the question what of the latter is in the former.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from structlog.testing import capture_logs

from protos import codec
from protos.terms import (
    Advertised,
    Confirmed,
    DeclineCause,
    Declined,
    Prepared,
    RoundId,
    Shared,
    Submitted,
    Unmasked,
)
from security import keys
from security.audit_file import records
from security.membership import sign
from security.membership_file import to_json
from site_agent.audit import FILE_NAME, AuditLog
from site_agent.membership import Standing
from site_agent.secagg.keeper import Keeper
from tests.site_agent.agent_at_hand import IdleTrainer, build_agent, until_true
from tests.site_agent.secure_cohort import NOW, OWN, ROUND, Played
from tests.site_agent.test_driver import Script, tools_of
from tests.site_agent.test_secure_driver import THREE, Hospital

LIMIT_S = 30
WINDOW_BYTES = 16  # four values of an update in a row are recognised anywhere
STEPS = ("train", "advertise", "share", "mask", "confirm", "unmask")


class Wiretap(Script):
    """A coordinator that keeps every byte it was sent."""

    def __init__(self):
        super().__init__()
        self.sent, self.listed = [], b""

    @property
    def wire(self):
        return b"".join(self.sent)

    async def next(self, query):
        self.sent.append(codec.encode_next_request(query).SerializeToString())
        return await super().next(query)

    async def report(self, request):
        self.sent.append(request)
        return await super().report(request)

    async def upload(self, ref, chunks, *, stall_s):
        reached = await super().upload(ref, chunks, stall_s=stall_s)
        self.sent.append(self.uploaded)
        return reached

    async def upload_offset(self, ref):
        self.sent.append(bytes.fromhex(ref.sha256) + ref.sha256.encode())
        return await super().upload_offset(ref)

    async def membership(self):
        return self.listed

    def forget(self):
        """Lose the database: no report was ever heard."""
        self.last, self.heard = 0, []


class DrawnTrainer(IdleTrainer):
    """Contributes what a function draws for the round; `spoil` changes the file before the agent sees it."""

    draw = staticmethod(lambda _number: np.zeros(0, np.uint32))
    spoil = staticmethod(lambda words: words)

    def _contribute(self, arguments):
        found = super()._contribute(arguments)
        path = Path(arguments["out_dir"]) / found["contribution"]
        content = self.spoil(self.draw(arguments["round"])).astype("<u4").tobytes()
        path.write_bytes(content)
        return {**found, "sha256": hashlib.sha256(content).hexdigest()}


class WatchedKeeper(Keeper):
    """Remembers every state that it sealed, and under which key."""

    def __init__(self, data, states):
        super().__init__(data)
        self.states = states

    def write(self, round_id, state):
        super().write(round_id, state)
        self.states.append((state, self.masked(round_id).with_name("key").read_bytes()))


class Audited:
    """The agent's own audit log, closed whenever the agent is left."""

    def __init__(self, data):
        self.log = AuditLog(data, "spiffe://test/site/a", NOW.timestamp)

    def note(self, *arguments, **details):
        self.log.note(*arguments, **details)

    def has(self, *actions):
        return self.log.has(*actions)


class Victim(Hospital):
    """Site a under attack.

    Args:
        folder: Disks of all sites.
        policy: Site a's own.
        own: Modalities by site; the others are honest.
        demand: Fewest sites that each of the others demands.
    """

    def __init__(self, folder, policy=THREE, own=OWN, demand=3):
        super().__init__(folder, policy, own)
        self.cohort.minimum = demand
        heard, self.script = self.script, Wiretap()
        self.script.blobs = heard.blobs
        self.trainer = DrawnTrainer(self.cohort.layout, own["a"])
        self.trainer.draw = lambda number: self.cohort.vector("a", number)
        self.membership_key = keys.make_signing_key()
        self.publish(self.cohort.listed)
        self.data, self.states, self.log = folder / "a", [], []

    # -- what the attacker does -------------------------------------------------------------------------------------

    def publish(self, listed, key=None):
        """Hand out a membership list, signed by the consortium unless another key is given."""
        self.script.listed = to_json(sign(listed, key or self.membership_key))

    def offer(self, spec):
        """Show another specification from now on."""
        from json import dumps

        from tests.site_agent.test_transfers import ref_of

        content = dumps(spec.to_dict()).encode()
        self.spec = ref_of(content)
        self.script.blobs[self.spec.sha256] = content
        return self.spec

    def tell(self, task, round_id=ROUND):
        """Start the agent, tell it a task, leave it when it has nothing more to do; return what it said."""
        before = len(self.script.heard)

        async def whole():
            self.script.changed = asyncio.Event()
            tools, stop = self.tools(), asyncio.Event()
            self.say(task, round_id)
            running = asyncio.create_task(build_agent(tools).run(stop))
            try:
                async with asyncio.timeout(LIMIT_S):
                    await until_true(lambda: running.done() or bool(tools.status.now.waiting))
            finally:
                stop.set()
                await running
                tools.notes.log.close()
            self.last_tools = tools

        with capture_logs() as lines:
            asyncio.run(whole())
        self.log += lines
        return [report.body for report in self.script.heard[before:]]

    def asked(self, kind, task, round_id=ROUND):
        """Tell it a task that an honest coordinator would, and return the one answer of a kind."""
        (found,) = (body for body in self.tell(task, round_id) if isinstance(body, kind))
        return found

    def tools(self):
        identity = self.identity()
        identity.loaded.trust = SimpleNamespace(membership_key=keys.public_bytes(self.membership_key))
        identity.loaded.facts = SimpleNamespace(renew_after=datetime(2999, 1, 1, tzinfo=UTC))
        standing = Standing(self.data / "membership.json")
        tools = tools_of(self.data, self.script, self.trainer, standing, self.policy)
        cohort = tools.config.cohort.model_copy(update={"modalities": self.cohort.own["a"]})
        tools.training.config = tools.config.model_copy(update={"cohort": cohort})
        notes = Audited(self.data)
        tools.rules.notes = tools.steps.notes = notes
        tools.steps.keeper = WatchedKeeper(self.data, self.states)
        return replace(tools, identity=identity, clock=NOW.timestamp, notes=notes)

    # -- a round up to where the attack begins ----------------------------------------------------------------------

    @property
    def others(self):
        return tuple(site for site in self.cohort.own if site != "a")

    def up_to(self, step, without=()):
        """Play honestly all steps before one; sites that are `without` say nothing from the masked input on."""
        played = self.played
        for before in STEPS[: STEPS.index(step)]:
            match before:
                case "train":
                    self.asked(Prepared, self.train, played.round)
                case "advertise":
                    played.advertise(self.others).advertised["a"] = self.asked(Advertised, played.task, played.round)
                case "share":
                    played.share(self.others).shared["a"] = self.asked(Shared, played.share_task, played.round)
                case "mask":
                    self._mask(played, without)
                case "confirm":
                    played.confirm(self._left(without))
                    played.confirmed["a"] = self.asked(Confirmed, played.confirm_task, played.round)
                case "unmask":
                    played.unmask(self._left(without))
                    played.unmasked["a"] = self.asked(Unmasked, played.unmask_task, played.round)
        return played

    def whole(self, without=()):
        """Play a round to its end."""
        return self.whole_from(self.up_to("unmask", without), without)

    def whole_from(self, played, without=()):
        """Play the last step."""
        played.unmask(self._left(without))
        played.unmasked["a"] = self.asked(Unmasked, played.unmask_task, played.round)
        return played

    def next_round(self):
        """Go on to round 2, after a sum of all."""
        self.played = Played(self.cohort, RoundId(run="r", round_number=2), previous=self.played.cohort.own)

    def _left(self, without):
        return tuple(site for site in self.others if site not in without)

    def _mask(self, played, without):
        played.mask(self._left(without))
        self.asked(Submitted, played.mask_task("a"), played.round)
        played.masked["a"] = self.script.uploaded

    # -- what is left of it -----------------------------------------------------------------------------------------

    def audit(self, action):
        """Return (subject, outcome, details) of the audit log's records of an action."""
        found = records(self.data / FILE_NAME) if (self.data / FILE_NAME).exists() else ()
        return [(one.subject, one.outcome, dict(one.details)) for one in found if one.action == action]

    @property
    def attempts(self):
        return list(Keeper(self.data).attempts())

    @property
    def state(self):
        """The last state that was sealed."""
        return self.states[-1][0]

    def secrets(self):
        """Yield all private keys, seeds and state keys that the site ever had."""
        for state, key in self.states:
            yield from (key, state.channel_private, state.mask_private, *state.seeds)

    def clear(self, number=1):
        """Yield what would tell the update: the vector, its hash, each window of it."""
        content = self.cohort.vector("a", number).tobytes()
        sha256 = hashlib.sha256(content)
        yield from (content, sha256.digest(), sha256.hexdigest().encode())
        yield from (content[at : at + WINDOW_BYTES] for at in range(0, len(content) - WINDOW_BYTES + 1, 4))

    def traces(self):
        """Return all that left the site, and all that people read there."""
        texts = [(self.data / name).read_bytes() for name in (FILE_NAME, "status.json")]
        return b"".join([self.script.wire, *texts, repr(self.log).encode()])

    def assert_nothing_leaked(self, *, shares=True):
        """Check that no secret and nothing of the update is in what was sent or written for people.

        Args:
            shares: Whether no share may have left either, as long as nothing was opened.
        """
        found = self.traces()
        for secret in {*self.secrets(), *(self.received() if shares else ())}:
            for form in (secret, secret.hex().encode(), base64.b64encode(secret)):
                assert form not in found, "a secret left the site"
        for piece in self.clear():
            assert piece not in found, "something of the update left the site"

    def received(self):
        """Yield all shares that the site ever held, its own included."""
        for state, _ in self.states:
            for shares in state.shares.values():
                yield from shares

    def assert_refused(self, task, clause, words, *, round_id=ROUND, cause=DeclineCause.POLICY, kept=()):
        """Tell it a task; it must decline, say why, put it down with the clause, and destroy what it holds."""
        before = len(self.audit("round.declined"))
        said = self.tell(task, round_id)
        assert [type(body) for body in said] == [Declined], said
        assert (said[0].cause, words in said[0].problem) == (cause, True), said[0].problem
        ((subject, outcome, details),) = self.audit("round.declined")[before:]
        assert (subject, outcome) == (str(round_id), "refused")
        assert (details["clause"], details["problem"]) == (clause, said[0].problem)
        assert self.attempts == list(kept), "what cannot be gone on with is destroyed"
        self.assert_nothing_leaked()


def play_of(victim, **changes):
    """Return a round of the victim's cohort about something else."""
    played = Played(victim.cohort)
    played.task = victim.cohort.advertise(**changes)
    return played
