"""Rounds whose contributions are added in three ways: as a simulation does, in clear, and under masks.

A federation that drifts instead of training makes real contributions, with decoders that become partly personal. In
clear and under masks it is the coordinator's code that adds files; the masks are those of the protocol's core, and
sites are lost at its steps. Every round compares bytes of sums, states of the server and its counts. There is no
transport and no run's session here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.clear_sum import ClearSummation
from coordinator.ports import Input
from coordinator.secure_sum import SecureSummation
from fedmepd.aggregation import Accumulator, Contribution, open_sum, quantisation, vector_length
from fedmepd.artefacts import SegmentValues, dump_contribution, dump_segment, dump_sum, parse_sum
from fedmepd.personalization import Status, least_open
from fedmepd.round_state import ServerState
from fedmepd.rounds import broadcast, server_round, site_round
from fedmepd.states import server_tensors
from protos.settings import format_pairs
from security import secagg
from security.errors import OpeningError, SmallCohortError
from security.masking import Pad
from security.secagg import Demands, Opening, Party, Segment, Setting, Transcript
from site_agent.secagg.masking import write_masked
from site_agent.updates import CheckedUpdate
from tests.fedmepd.drifting_rounds import REGIONS, Federation, noise, rules_for

NINE = {
    **{f"s{n}": ("a", "b", "c") for n in (1, 2)},  # c has two owners, too few in every round
    **{f"s{n}": ("a", "b") for n in (3, 4, 5)},
    **{f"s{n}": ("a",) for n in (6, 7, 8)},
    "s9": ("b",),  # b has six
}
FOURTEEN = NINE | {f"s{n}": ("a",) for n in range(10, 15)}
MINIMUM = 3
STEPS = ("advertise", "share", "mask", "confirm", "unmask")
Owned = Mapping[str, tuple[str, ...]]
Lost = Mapping[str, str]  # by site, the step from which on it says nothing


@dataclass(frozen=True)
class Added:
    """A sum, with the sites in it by segment."""

    content: bytes
    contributors: Mapping[str, int]
    closed: Mapping[str, str] = field(default_factory=dict)


@dataclass
class World:
    """A federation whose sums are made in three ways.

    Args:
        folder: For inputs and sums.
        own: What its sites own.
        dropouts: How many lost sites each slot and segment has room for.

    Attributes:
        survivors: Sites in the sum, by round.
        reasons: Why segments were closed, by round and segment.
        failed: Why a sum was not opened, by round.
        different: Rounds after which the model is another one than if it had been added in clear.
        partial: Slots, over all rounds, that some of a segment's sites gave to and some did not.
    """

    folder: Path
    own: Owned
    dropouts: int
    survivors: dict[int, tuple[str, ...]] = field(default_factory=dict)
    reasons: dict[int, dict[str, str]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    different: list[int] = field(default_factory=list)
    partial: int = 0

    def __post_init__(self) -> None:
        rules = rules_for(minimum=MINIMUM, dropouts=self.dropouts, formats=quantisation(sites=len(self.own)))
        self.federation = Federation(rules, dict(self.own))
        self.layout, self.formats = rules.layout, rules.formats
        self.roster = self.previous = tuple(sorted(self.own))
        self.keys = {site: Ed25519PrivateKey.generate() for site in self.own}
        self.trainers = {site: noise(site) for site in self.own}

    def who(self, lost: Lost, step: str) -> tuple[str, ...]:
        """Return the sites that take a step."""
        return tuple(site for site in self.roster if site not in lost or STEPS.index(lost[site]) > STEPS.index(step))

    # -- a round ----------------------------------------------------------------------------------------------------

    def round(self, lost: Lost) -> None:
        """Train everywhere, lose some sites, add up, compare, and let the server go on."""
        contributions, survivors = self.train(), self.who(lost, "mask")
        inputs = self.write(contributions)
        try:
            secure = self.add_masked(inputs, lost)
        except (OpeningError, SmallCohortError) as error:
            self.failed[self.number] = error.problem
            self.federation.server = self.after(None)
            return
        clear = self.add_clear([inputs[site] for site in reversed(survivors)])
        simulated = self.simulate([contributions[site] for site in survivors])
        assert (clear.content, clear.contributors) == (dump_sum(simulated), simulated.contributors)
        alike = self.simulate([without(contributions[site], secure.closed) for site in survivors])
        assert (secure.content, secure.contributors) == (dump_sum(alike), alike.contributors)
        self.check_slots(contributions, survivors, secure)
        self.go_on(simulated, alike, secure, survivors)

    def train(self) -> dict[str, Contribution]:
        """Let every site train and contribute, as the simulation does."""
        made, fed = {}, self.federation
        for number, (site, own) in enumerate(self.own.items()):
            result = site_round(
                fed.sites[site],
                broadcast(fed.server, fed.rules, own, fed.roster),
                self.trainers[site],
                rules=fed.rules,
                own=own,
                site=site,
                samples=5 + number,
            )
            dice = {region: (number + 1) / (self.number + 16 + place) for place, region in enumerate(REGIONS)}
            fed.sites[site], made[site] = replace(result.state, dice=dice), result.contribution
        return made

    def write(self, contributions: Mapping[str, Contribution]) -> dict[str, Input]:
        """Write every contribution as it lies at its site."""
        for site, found in contributions.items():
            (self.folder / f"{site}.clear").write_bytes(dump_contribution(found, self.layout))
        return {
            site: Input(site=site, modalities=self.own[site], path=self.folder / f"{site}.clear") for site in self.own
        }

    def go_on(self, simulated: Accumulator, alike: Accumulator, secure: Added, survivors: tuple[str, ...]) -> None:
        """Compare what the server makes of the sums, and go on with it.

        A segment with too few survivors is left alone by the server in any case. One that is closed for the sake of a
        slot alone is left alone likewise, but would be applied if it had been added in clear.
        """
        parsed = parse_sum(secure.content, self.layout, contributors=secure.contributors, sites=survivors)
        known, state = self.after(simulated), self.after(parsed)
        assert_same(state, self.after(alike))
        if any(simulated.contributors.get(name, 0) >= MINIMUM for name in secure.closed):
            self.different.append(self.number)
        else:
            assert_same(state, known)
        self.reasons[self.number], self.survivors[self.number] = dict(secure.closed), survivors
        self.federation.server, self.previous = state, survivors

    @property
    def number(self) -> int:
        """The round that is on."""
        return self.federation.server.round_number + 1

    def after(self, total: Accumulator | None) -> ServerState:
        """Return the server after a round with such a sum."""
        opened = None if total is None else open_sum(total, self.formats)
        rules = self.federation.rules
        return server_round(self.federation.server, opened, noise("server", 0.2), None, rules=rules)[0]

    # -- three ways -------------------------------------------------------------------------------------------------

    def simulate(self, contributions: Sequence[Contribution]) -> Accumulator:
        total = Accumulator(layout=self.layout)
        for found in contributions:
            total.add(found)
        return total

    def add_clear(self, inputs: Sequence[Input]) -> Added:
        contributors = ClearSummation().sum(self.layout, self.formats, inputs, self.folder / "clear")
        return Added((self.folder / "clear").read_bytes(), contributors)

    def add_masked(self, inputs: Mapping[str, Input], lost: Lost) -> Added:
        """Go through the protocol; what the coordinator gets of a site is checked as it does."""
        masked, opening = self.open(inputs, lost)
        contributors = SecureSummation(opening).sum(self.layout, self.formats, masked, self.folder / "sum")
        return Added((self.folder / "sum").read_bytes(), contributors, opening.closed)

    def open(self, inputs: Mapping[str, Input], lost: Lost) -> tuple[list[Input], Opening]:
        setting, demands = self.setting(), Demands(minimum=MINIMUM)
        advertising, sharing, surviving = (self.who(lost, step) for step in STEPS[:3])
        states = {site: secagg.advertise(setting, site, self.keys[site], demands) for site in advertising}
        advertisements = tuple(states[site].advertisement for site in advertising)
        keys = secagg.believed(setting, advertisements)
        states |= {site: secagg.share(states[site], advertisements) for site in sharing}
        bundles = {site: bundle for site in sharing if (bundle := states[site].bundle) is not None}
        for bundle in bundles.values():
            secagg.check_bundle(keys, bundle)
        masked = []
        for site in surviving:
            sealed = {peer: bundle.sealed[site] for peer, bundle in bundles.items() if peer != site}
            states[site] = secagg.receive(states[site], sharing, sealed)
            masked.append(self.mask(inputs[site], secagg.pads(states[site])))
            states[site] = secagg.confirm(states[site], surviving, self.keys[site])
        signatures = {site: states[site].confirmation for site in self.who(lost, "confirm")}
        for site, signature in signatures.items():
            secagg.check_confirmation(keys, sharing, surviving, site, signature)
        given = (secagg.unmask(states[site], signatures).answer for site in self.who(lost, "unmask"))
        answers = tuple(answer for answer in given if answer is not None)
        for answer in answers:
            secagg.check_answer(keys, sharing, surviving, answer)
        transcript = Transcript(
            keys=keys,
            sharers=sharing,
            survivors=surviving,
            commitments={site: bundle.commitments for site, bundle in bundles.items()},
            answers=answers,
        )
        return masked, secagg.recover(transcript)

    def mask(self, found: Input, pads: Mapping[str, tuple[Pad, ...]]) -> Input:
        segments, path = self.layout.for_member(found.modalities), self.folder / f"{found.site}.masked"
        clear = hashlib.sha256(found.path.read_bytes()).hexdigest()
        write_masked(path, CheckedUpdate(found.path, segments, self.formats), segments, pads, sha256=clear)
        assert path.read_bytes() != found.path.read_bytes()
        return replace(found, path=path)

    def setting(self) -> Setting:
        """Return what the round is about, from the server's state as it is broadcast."""
        fed, everything = self.federation, tuple(self.layout.modalities)
        sent = broadcast(fed.server, fed.rules, everything, fed.roster)
        artefacts = {
            name: dump_segment(SegmentValues(plain=sent.plain[name], filters=sent.filters[name], counts=counts))
            for name, counts in sent.counts.items()
        }
        return Setting(
            consortium="drifting",
            run="run",
            round_number=sent.round_number,
            attempt=1,
            membership_version=1,
            membership_digest=bytes(32),
            spec_hash=bytes(32),
            layout_digest=bytes(32),
            formats=format_pairs(self.formats),
            parties=tuple(
                Party(
                    site=site, modalities=self.own[site], identity_key=self.keys[site].public_key().public_bytes_raw()
                )
                for site in self.roster
            ),
            segments=tuple(
                Segment(
                    name=found.name,
                    values=vector_length(found),
                    least_open=least_open(sent.counts[found.name], minimum=MINIMUM, dropouts=self.dropouts),
                )
                for found in self.layout.segments
            ),
            broadcast=tuple((name, hashlib.sha256(content).digest()) for name, content in artefacts.items()),
            previous=self.previous,
            run_sites=self.own,
        )

    # -- what must be so --------------------------------------------------------------------------------------------

    def check_slots(self, contributions: Mapping[str, Contribution], survivors: Sequence[str], secure: Added) -> None:
        """Check that no slot of an opened sum is made of fewer sites than each of them demands."""
        for segment in self.layout.segments:
            if segment.name not in secure.contributors:
                continue
            start = segment.plain_values + segment.filter_values
            found = [contributions[site].vectors.get(segment.name) for site in survivors]
            weights = [vector[start : start + segment.slots] for vector in found if vector is not None]
            giving = np.sum([weight > 0 for weight in weights], axis=0)
            assert (giving[giving > 0] >= MINIMUM).all(), segment.name
            self.partial += int(((giving > 0) & (giving < len(weights))).sum())

    @property
    def closed(self) -> dict[int, set[str]]:
        """The closed segments by round."""
        return {number: set(reasons) for number, reasons in self.reasons.items()}

    @property
    def personal_share(self) -> float:
        """The share of all slots that are personal."""
        slots = [slots.status for state in self.federation.sites.values() for slots in state.slots.values()]
        return float((np.concatenate(slots) == Status.PERSONAL).mean())


def without(found: Contribution, segments: Mapping[str, str]) -> Contribution:
    """Return a contribution as if its site were no member of some segments."""
    return replace(found, vectors={name: vector for name, vector in found.vectors.items() if name not in segments})


def assert_same(one: ServerState, other: ServerState) -> None:
    ours, theirs = server_tensors(one), server_tensors(other)
    assert (one.round_number, one.samples, ours.keys()) == (other.round_number, other.samples, theirs.keys())
    assert [name for name in ours if not ours[name].equal(theirs[name])] == []
