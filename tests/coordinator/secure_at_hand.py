"""A run with secure aggregation, played event by event; what sites say is made up, the session does not look at it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from coordinator import events as ev
from coordinator.policy import Policy
from coordinator.state import RoundState, RunState, SiteStatus, Step, Terms
from protos.terms import Advertise, NamedHash, Phase, RosterSite, SegmentTerms
from tests.coordinator.runs_at_hand import Scene, manifest, ref

OWN = {
    "a": ("flair",),
    "b": ("flair", "t1"),
    "c": ("t1",),
    "d": ("flair", "t1"),
    "e": ("flair",),
    "f": ("flair",),
}
ALL = tuple(OWN)
POLICY = Policy(quorum=3, grace_s=10, absent_s=30, first_deadline_s=100, least_deadline_s=20, stall_s=50, step_s=40)


def terms(current: RoundState, previous: tuple[str, ...], *, cohort: int = 3, least_open: int = 0) -> Terms:
    """Terms with every site of the roster listed."""
    roster = tuple(RosterSite(site=site, modalities=tuple(sorted(OWN[site]))) for site in current.roster)
    task = Advertise(
        roster=roster,
        membership_version=1,
        membership_digest="ab" * 32,
        layout_digest="cd" * 32,
        segments=(
            SegmentTerms(name="modality/flair", values=3, least_open=0),
            SegmentTerms(name="common", values=5, least_open=least_open),
        ),
        broadcast=(NamedHash(name="common", sha256="ef" * 32),),
        previous=previous,
        context=f"{current.id.attempt:064x}",
    )
    keys = {site: site.encode().hex().ljust(64, "0") for site in current.roster}
    return Terms(consortium="test", task=task, identity_keys=keys, minimum_cohort=cohort)


@dataclass
class SecureScene(Scene):
    """Every step lets all sites that are waited for answer, but those that are named."""

    minima: dict[str, int] = field(default_factory=dict)

    @property
    def current(self) -> RoundState:
        assert self.state.round is not None
        return self.state.round

    @property
    def phase(self) -> Phase:
        return self.current.phase

    def _waiting(self, *statuses: SiteStatus, but: str = "") -> list[str]:
        return [site for site in self.current.sites(*statuses) if site not in but]

    def prepare(self, but: str = "") -> None:
        for site in self._waiting(SiteStatus.EXPECTED, SiteStatus.TRAINING, but=but):
            self.tell(ev.SiteAccepted(site=site, round=self.id))
            self.tell(ev.SiteTrained(site=site, round=self.id, manifest=None, seconds=1.0))

    def settle(self, *, cohort: int = 3, least_open: int = 0, unlisted: str = "") -> None:
        (effect,) = self.take(ev.Settle)
        assert isinstance(effect, ev.Settle)
        previous = self.state.previous or tuple(sorted(self.state.sites))
        found = terms(self.current, previous, cohort=cohort, least_open=least_open)
        task = replace(found.task, roster=tuple(one for one in found.task.roster if one.site not in unlisted))
        self.tell(ev.Settled(round=effect.round, terms=replace(found, task=task)))

    def advertised(self, site: str) -> ev.SiteAdvertised:
        minimum = self.minima.get(site, 3)
        return ev.SiteAdvertised(site=site, round=self.id, minimum=minimum, colluders=0, content=f"k{site}".encode())

    def advertise(self, but: str = "") -> None:
        for site in self._waiting(SiteStatus.READY, but=but):
            self.tell(self.advertised(site))

    def share(self, but: str = "") -> None:
        for site in self._waiting(SiteStatus.ADVERTISED, but=but):
            self.tell(ev.SiteShared(site=site, round=self.id, content=f"s{site}".encode()))

    def mask(self, but: str = "") -> None:
        for site in self._waiting(SiteStatus.SHARED, but=but):
            self.tell(ev.SiteMasked(site=site, round=self.id, manifest=manifest(site)))

    def upload(self, but: str = "") -> None:
        for site in self._waiting(SiteStatus.MASKED, but=but):
            self.tell(ev.SiteSubmitted(site=site, round=self.id, vector=manifest(site).vector))

    def confirm(self, but: str = "") -> None:
        for site in self._waiting(SiteStatus.SUBMITTED, but=but):
            self.tell(ev.SiteConfirmed(site=site, round=self.id, content=f"c{site}".encode()))

    def unmask(self, but: str = "") -> None:
        for site in self._waiting(SiteStatus.CONFIRMED, but=but):
            self.tell(ev.SiteUnmasked(site=site, round=self.id, content=f"u{site}".encode()))

    def open(self, closed: dict[str, str] | None = None) -> None:
        (effect,) = self.take(ev.SumInputs)
        assert isinstance(effect, ev.SumInputs)
        counts = {"common": len(effect.sites)}
        self.tell(
            ev.Summed(round=effect.round, sum=ref("sum"), contributors=counts, sites=effect.sites, closed=closed or {})
        )

    def to(self, phase: Phase) -> SecureScene:
        """Go on without faults until the round is in a phase."""
        steps = {
            Phase.TRAINING: self.prepare,
            Phase.ADVERTISE: self.advertise,
            Phase.SHARE: self.share,
            Phase.MASKED: lambda: (self.mask(), self.upload()),
            Phase.CONSISTENCY: self.confirm,
            Phase.UNMASK: self.unmask,
            Phase.AGGREGATING: self.open,
        }
        while self.phase is not phase:
            if self.phase is Phase.ADVERTISE and self.current.terms is None:
                self.settle()
            steps[self.phase]()
        return self

    def tick(self, seconds: float = 0.0, *, silent: tuple[str, ...] = (), stalled: tuple[str, ...] = ()) -> object:
        before = self.now
        self.now += seconds
        heard = {site: self.now for site in OWN if site not in silent}
        grew = {site: before if site in stalled else self.now for site in OWN}
        return self.tell(ev.Tick(seen=heard, progress=grew))

    def board(self) -> dict[Step, set[str]]:
        found: dict[Step, set[str]] = {}
        for effect in self.effects:
            if isinstance(effect, ev.Keep) and effect.round == self.id:
                found.setdefault(effect.step, set()).add(effect.site)
        return found

    def notes(self, action: str) -> list[ev.Note]:
        return [effect for effect in self.effects if isinstance(effect, ev.Note) and effect.action == action]


def secure_run(rounds: int = 2, sites: str = "abcdef", policy: Policy = POLICY) -> SecureScene:
    """Return a secure run whose first round is in training."""
    own = {site: OWN[site] for site in sites}
    state = RunState(run="run", spec=ref("spec"), sites=own, rounds=rounds, policy=policy)
    scene = SecureScene(state=state)
    scene.begin()
    scene.publish(0)
    return scene
