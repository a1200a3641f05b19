"""The members of a run at work: what the server and a site do in a round, with their own patients.

A simulation holds all of them in one process, a federation one per worker process; they are the same objects, so a
federated run equals a simulated one bit for bit. Participants keep no state between calls: it is passed in and out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from fedmepd.aggregation import Opened
from fedmepd.anchors import Anchors, cluster, smooth
from fedmepd.compute import Backend
from fedmepd.errors import ConfigError
from fedmepd.federation import FederationMember, clusters_of, learner_for
from fedmepd.layout import Layout
from fedmepd.model import Architecture, Network
from fedmepd.plan import Plan
from fedmepd.private_anchors import PrivacyHooks, PrivateAnchorMaker, ReleasedHook
from fedmepd.round_state import AnchorRelease, Broadcast, Rules, ServerState, SiteResult, SiteState
from fedmepd.rounds import broadcast, server_round, server_start, site_round, site_start
from fedmepd.runspec import RunSpec
from fedmepd.sections import SERVER_ID
from fedmepd.seeds import seed_of
from fedmepd.states import Best
from fedmepd.task import load_task
from fedmepd.training import Learner, StepHook, Trained
from fedmepd.validation import validate


class SiteParticipant:
    """A site of a run.

    Args:
        spec: The run.
        member: The site with its patients.
        backend: Where to compute.
        workers: Loader processes.
        privacy: For the private parts of the plan; needed where it has `privacy.sites`.

    Raises:
        ConfigError: If it is needed and missing.
    """

    def __init__(
        self,
        spec: RunSpec,
        member: FederationMember,
        backend: Backend,
        *,
        workers: int = 0,
        privacy: PrivacyHooks | None = None,
    ) -> None:
        self.spec, self.member = spec, member
        randomness = None if privacy is None else privacy.randomness
        self.learner = learner_for([member], spec.plan, backend, workers=workers, randomness=randomness)
        self.rules = rules_of(spec, layout_of(spec, self.learner.architecture))

    def start(self, start: Mapping[str, Tensor]) -> SiteState:
        """Return the state before the first round.

        Args:
            start: The server's `fedmepd.rounds.start_weights`; empty where nothing is federated.
        """
        return site_start(self.learner.initial(), start, self.rules, self.member.modalities)

    def round(self, state: SiteState, received: Broadcast, hook: StepHook | None = None) -> SiteResult:
        """Do the site's part of a round.

        Raises:
            UpdateError: If training diverged.
        """
        return site_round(
            state,
            received,
            Trainer(self.learner, self.spec.plan, hook),
            rules=self.rules,
            own=self.member.modalities,
            site=self.member.id,
            samples=self.learner.samples,
        )

    def validate(self, state: SiteState, anchors: Anchors | None, known: Best | None) -> Validated:
        """Score the model after a round, with the anchors that were broadcast for it."""
        return validate_member(
            self.learner,
            state.weights,
            anchors,
            member=self.member,
            plan=self.spec.plan,
            known=known,
            round_number=state.round_number,
        )


class LeadParticipant:
    """The server of a run.

    Args:
        spec: The run.
        members: The server with its patients; all members where the method pools them.
        backend: Where to compute.
        workers: Loader processes.
        privacy: For the private parts of the plan; needed where it has `privacy.server` or `privacy.anchors`.

    Raises:
        ConfigError: If it is needed and missing.
    """

    def __init__(
        self,
        spec: RunSpec,
        members: Sequence[FederationMember],
        backend: Backend,
        *,
        workers: int = 0,
        privacy: PrivacyHooks | None = None,
    ) -> None:
        self.spec, self.member = spec, members[0]
        randomness = None if privacy is None else privacy.randomness
        self.learner = learner_for(members, spec.plan, backend, workers=workers, randomness=randomness)
        self.rules = rules_of(spec, layout_of(spec, self.learner.architecture))
        self.owners = spec.owners(self.rules.layout)
        self._noisy_release = None if privacy is None else privacy.anchor_release
        self._release()  # fails now, not after hours of training, if the mechanism is missing

    def start(
        self, hook: StepHook | None = None, *, permitted: bool = True, released: ReleasedHook | None = None
    ) -> tuple[ServerState, Trained]:
        """Do round 0: the first epoch from random weights, and the first anchors.

        Args:
            hook: Called after each step.
            permitted: Whether private anchors may be released.
            released: Told the digest of private anchors that were made.
        """
        trainer = Trainer(self.learner, self.spec.plan, hook)
        release = self._release(permitted=permitted, released=released)
        return server_start(self.learner.initial(), trainer, release, self.owners, self.rules)

    def round(
        self,
        state: ServerState,
        opened: Opened | None,
        hook: StepHook | None = None,
        *,
        permitted: bool = True,
        released: ReleasedHook | None = None,
    ) -> tuple[ServerState, Trained]:
        """Do the server's part of a round.

        Args:
            state: The server after the last round.
            opened: The round's sums; None for a round that failed.
            hook: Called after each step.
            permitted: Whether private anchors may be released; without it they stay as they are.
            released: Told the digest of private anchors that were made.
        """
        trainer = Trainer(self.learner, self.spec.plan, hook)
        release = self._release(permitted=permitted, released=released)
        return server_round(state, opened, trainer, release, rules=self.rules)

    def broadcast(self, state: ServerState, own: Sequence[str]) -> Broadcast:
        """Return what a site that owns these modalities downloads in the next round."""
        return broadcast(state, self.rules, own, self.owners)

    def _release(self, *, permitted: bool = True, released: ReleasedHook | None = None) -> AnchorRelease | None:
        """Return what makes the anchors; None for methods without."""
        plan = self.spec.plan
        if not clusters_of(plan):
            return None
        if plan.privacy.anchors is None:
            return AnchorMaker(self.learner, plan)
        if self._noisy_release is None:
            raise ConfigError(
                "the plan has privacy.anchors, and this process was given no mechanism that adds the noise",
                remedy="start the run through a command that composes one",
            )
        return PrivateAnchorMaker(
            learner=self.learner, plan=plan, release=self._noisy_release, permitted=permitted, released=released
        )

    def validate(self, state: ServerState, known: Best | None) -> Validated:
        """Score the global model after a round; the server has no calibration and needs no anchors."""
        return validate_member(
            self.learner,
            state.weights,
            None,
            member=self.member,
            plan=self.spec.plan,
            known=known,
            round_number=state.round_number,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """What a validation found.

    Attributes:
        dice: Mean Dice per region; empty for a member without validation cases.
        score: Mean over the regions; 0 without such cases.
        best: The member's best model so far; without such cases, the latest.
    """

    dice: Mapping[str, float]
    score: float
    best: Best


def validate_member(
    learner: Learner,
    weights: Mapping[str, Tensor],
    anchors: Anchors | None,
    *,
    member: FederationMember,
    plan: Plan,
    known: Best | None,
    round_number: int,
) -> Validated:
    """Score a member's model on its validation cases and keep it if it is the best.

    Args:
        learner: What the member computes with.
        weights: The model.
        anchors: Anchors of the round, used where the member has LACCA.
        member: Whose validation cases.
        plan: Decides task and window.
        known: The best model before.
        round_number: The round after whose local training the weights were taken.
    """
    used = anchors if learner.architecture.calibration else None
    dice = {}
    if member.patients.validate:
        dice = validate(learner, weights, used, member, load_task(plan.task), plan.evaluation)
    score = sum(dice.values()) / len(dice) if dice else 0.0
    if known is not None and score <= known.score and dice:
        return Validated(dice=dice, score=score, best=known)
    best = Best(round_number=round_number, score=score, weights=weights, anchors=used)
    return Validated(dice=dice, score=score, best=best)


def rules_of(spec: RunSpec, layout: Layout) -> Rules:
    """Return the rules of a run."""
    settings = spec.plan.personalisation
    return Rules(
        run=spec.stream,
        method=spec.method,
        layout=layout,
        formats=spec.formats,
        warmup=spec.plan.rounds_of(settings.warmup),
        patience=spec.plan.patience_rounds,
        contribute_all=settings.contribute == "all",
        minimum=settings.min_contributors,
        dropouts=settings.tolerated_dropouts,
        private=spec.plan.privacy.sites is not None,
    )


def layout_of(spec: RunSpec, architecture: Architecture) -> Layout:
    """Return the layout of a run, the same at every member."""
    full = Network(replace(architecture, own=architecture.modalities, calibration=None))
    return spec.layout({name: tuple(p.shape) for name, p in full.named_parameters() if p.requires_grad})


@dataclass(frozen=True, slots=True)
class Trainer:
    """Local training as `fedmepd.rounds` sees it: a learner, its plan, and who watches."""

    learner: Learner
    plan: Plan
    hook: StepHook | None

    def __call__(
        self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor], anchors: Anchors | None, round_number: int
    ) -> Trained:
        """Train for one round."""
        training = self.plan.training
        epochs = training.server_epochs if self.learner.member == SERVER_ID else training.local_epochs
        steps = [training.steps or source.steps(epochs) for source in self.learner.sources]
        return self.learner.train(
            weights, moments, anchors=anchors, round_number=round_number, steps=steps, hook=self.hook
        )


@dataclass(frozen=True, slots=True)
class AnchorMaker:
    """Anchors without privacy noise: prototypes at fixed weights, clustered, averaged over rounds."""

    learner: Learner
    plan: Plan

    def __call__(self, weights: Mapping[str, Tensor], previous: Anchors | None, round_number: int) -> Anchors:
        """Return the anchors of a round."""
        settings = self.plan.anchors
        latest = cluster(
            self.learner.prototypes(weights),
            clusters=clusters_of(self.plan),
            weighting=settings.weighting,
            previous=previous,
            seed=seed_of("kmeans", self.plan.run.seed, round_number) % (1 << 31),
        )
        half_life = self.plan.rounds_of(settings.half_life)
        return smooth(previous, latest, weighting=settings.weighting, half_life=half_life)
