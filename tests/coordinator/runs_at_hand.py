"""States and events of small made-up runs, for the tests of the session."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator import events as ev
from coordinator.policy import Policy
from coordinator.session import Outcome, begin, handle
from coordinator.state import Publication, RunState, dump_run, load_run
from protos.terms import ArtefactRef, RoundId, SegmentSlice, VectorManifest

SITES = {"a": ("flair",), "b": ("flair", "t1"), "c": ("t1",)}
POLICY = Policy(
    aggregation="plain", quorum=2, grace_s=10, absent_s=30, first_deadline_s=100, least_deadline_s=20, stall_s=50
)


def ref(name: str, size: int = 4) -> ArtefactRef:
    return ArtefactRef(sha256=name.encode().hex().ljust(64, "0")[:64], size=size)


def publication(round_number: int) -> Publication:
    return Publication(
        round_number=round_number,
        segments={name: ref(f"{name}{round_number}") for name in ("modality/flair", "modality/t1", "common")},
        anchors=ref(f"anchors{round_number}"),
        start=ref("start"),
        layout=ref("layout"),
        model=ref(f"model{round_number}"),
        samples=0.0,
    )


def manifest(site: str, version: str = "1") -> VectorManifest:
    return VectorManifest(segments=(SegmentSlice(name="common", values=1),), vector=ref(f"vector-{site}-{version}"))


@dataclass
class Scene:
    """A run, a clock, and everything that the run has asked for."""

    state: RunState = field(default_factory=lambda: fresh(2))
    now: float = 1000.0
    effects: list[ev.Effect] = field(default_factory=list)
    last: Outcome | None = None

    def begin(self) -> Scene:
        self.effects += begin(self.state).effects
        return self

    def tell(self, event: ev.Event) -> Outcome:
        """Handle an event on the state as it would come back from the database."""
        outcome = handle(load_run(dump_run(self.state)), event, self.now)
        self.state, self.last = outcome.state, outcome
        self.effects += outcome.effects
        return outcome

    def take(self, kind: type) -> list[ev.Effect]:
        """Return and forget the effects of a kind."""
        found = [effect for effect in self.effects if isinstance(effect, kind)]
        self.effects = [effect for effect in self.effects if not isinstance(effect, kind)]
        return found

    @property
    def id(self) -> RoundId:
        assert self.state.round is not None
        return self.state.round.id

    def status(self, site: str) -> str:
        assert self.state.round is not None
        known = self.state.round.participant(site)
        assert known is not None
        return known.status.value

    def tick(self, seconds: float = 0.0, *, silent: tuple[str, ...] = (), stalled: tuple[str, ...] = ()) -> Outcome:
        """Let time go by, in which all but the silent sites are heard of."""
        before = self.now
        self.now += seconds
        seen = {site: before if site in silent else self.now for site in SITES}
        progress = {site: before if site in stalled else self.now for site in SITES}
        return self.tell(ev.Tick(seen={k: v for k, v in seen.items() if k not in silent}, progress=progress))

    def publish(self, number: int) -> None:
        self.tell(ev.LeadTrained(round_number=number))
        self.tell(ev.Published(publication=publication(number)))

    def train(self, *sites: str) -> None:
        for site in sites:
            self.tell(ev.SiteAccepted(site=site, round=self.id))
            self.tell(ev.SiteTrained(site=site, round=self.id, manifest=manifest(site), seconds=1.0))

    def submit(self, *sites: str) -> None:
        for site in sites:
            self.tell(ev.SiteSubmitted(site=site, round=self.id, vector=manifest(site).vector))

    def add_up(self) -> None:
        (effect,) = self.take(ev.SumInputs)[-1:]
        assert isinstance(effect, ev.SumInputs)
        counts = {"common": len(effect.sites)}
        self.tell(ev.Summed(round=effect.round, sum=ref("sum"), contributors=counts, sites=effect.sites))

    def whole_round(self) -> None:
        """Play a round in which everything goes well."""
        number = self.id.round_number
        self.train(*SITES)
        self.submit(*SITES)
        self.add_up()
        self.publish(number)


def fresh(rounds: int = 2, policy: Policy = POLICY) -> RunState:
    return RunState(run="run", spec=ref("spec"), sites=dict(SITES), rounds=rounds, policy=policy)


def started(rounds: int = 2, policy: Policy = POLICY) -> Scene:
    """Return a run whose first round is in training."""
    scene = Scene(state=fresh(rounds, policy)).begin()
    scene.publish(0)
    return scene
