"""The simulated federation: all members in one process, round by round, resumable.

The driver only: what a round means is in `fedmepd.rounds`, training in `fedmepd.training`. After each round the state
is durable, so that a crash, a full disk or Ctrl-C loses at most the round in progress.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from fedmepd.aggregation import Accumulator, Opened, open_sum, quantisation
from fedmepd.anchors import Anchors, cluster, smooth
from fedmepd.checkpoints import Best, MethodState, load_checkpoint, save_checkpoint
from fedmepd.compute import Backend
from fedmepd.config import SERVER_ID, Config
from fedmepd.federation import Federation, FederationMember, clusters_of, learner_for
from fedmepd.layout import build_layout
from fedmepd.methods import get_method
from fedmepd.model import Architecture, Network
from fedmepd.rounds import (
    Rules,
    SiteResult,
    SiteState,
    broadcast,
    personal_fractions,
    roster_of,
    server_round,
    server_start,
    site_round,
    site_start,
)
from fedmepd.runs import Metrics, RunFolder
from fedmepd.seeds import seed_of
from fedmepd.training import Learner, Trained
from fedmepd.validation import validate

T = TypeVar("T")
_NOTHING_OPENED = Opened(segments={}, scalars={"samples": 0.0}, sites=())


class Observer(Protocol):
    """Who watches a simulation; every call is optional to act on."""

    def round_begins(self, method: str, round_number: int, rounds: int) -> None:
        """Announce a round."""

    def step(self, member: str, done: int, steps: int, loss: float) -> None:
        """Report an optimiser step."""

    def validating(self, member: str) -> None:
        """Announce a member's validation."""

    def scored(self, member: str, score: float) -> None:
        """Report a member's mean validation Dice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a method's run works with, fixed for all rounds."""

    config: Config
    federation: Federation
    rules: Rules
    server: Learner
    sites: Mapping[str, Learner]
    roster: Mapping[str, int]


def set_up(config: Config, federation: Federation, method_name: str, backend: Backend) -> Setup:
    """Build learners and rules of a method.

    Raises:
        ConfigError: If the method or the sums' range is impossible.
    """
    method = get_method(method_name)
    members = federation.members if method.pooled else federation.members[:1]
    server = learner_for(members, federation, method, config, backend)
    sites = () if method.pooled else federation.sites
    rules = Rules(
        run=f"{config.run.name}/{config.run.seed}/{method.name}",
        method=method,
        layout=build_layout(
            trainable_shapes(server.architecture),
            federation.task.modalities,
            encoders=method.encoders,
            decoder=method.decoder != "local",
        ),
        formats=quantisation(sites=max(len(federation.sites), 1)),
        warmup=config.rounds_of(config.personalisation.warmup),
        patience=config.patience_rounds,
        contribute_all=config.personalisation.contribute == "all",
        minimum=config.personalisation.min_contributors,
        dropouts=config.personalisation.tolerated_dropouts,
    )
    return Setup(
        config=config,
        federation=federation,
        rules=rules,
        server=server,
        sites={site.id: learner_for([site], federation, method, config, backend) for site in sites},
        roster=roster_of(rules.layout, [site.modalities for site in sites]),
    )


def trainable_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the trainable parameters of a member that owns everything."""
    full = Network(replace(architecture, own=architecture.modalities, calibration=None))
    return {name: tuple(p.shape) for name, p in full.named_parameters() if p.requires_grad}


def run_method(setup: Setup, run: RunFolder, observer: Observer) -> MethodState:
    """Run a method's rounds from its last checkpoint, or from the start.

    Args:
        setup: From `set_up`.
        run: Where checkpoints and metrics go.
        observer: Who watches.

    Returns:
        The state after the last round.
    """
    config, name = setup.config, setup.rules.method.name
    folder = run.method(name)
    state = load_checkpoint(folder / "checkpoints")
    metrics = Metrics(folder, after_round=-1 if state is None else state.server.round_number)
    try:
        if state is None:
            observer.round_begins(name, 0, config.run.rounds)
            state = _start(setup, metrics, observer)
            _keep(state, metrics, folder, config)
        while state.server.round_number < config.run.rounds:
            observer.round_begins(name, state.server.round_number + 1, config.run.rounds)
            state = _round(setup, state, metrics, observer)
            _keep(state, metrics, folder, config)
    finally:
        metrics.close()
    return state


def _keep(state: MethodState, metrics: Metrics, folder: Path, config: Config) -> None:
    metrics.flush()
    save_checkpoint(folder / "checkpoints", state, keep_every=config.run.checkpoint_every)


def _start(setup: Setup, metrics: Metrics, observer: Observer) -> MethodState:
    """Round 0: the server's first epoch; sites start from its weights where anything is federated."""
    started = time.perf_counter()
    learner = setup.server
    server, trained = server_start(
        learner.initial(), _train(setup, learner, SERVER_ID, observer), _release(setup), setup.roster, setup.rules
    )
    _write_training(metrics, 0, SERVER_ID, trained)
    sites = {}
    for member in setup.federation.sites if setup.sites else ():
        weights = setup.sites[member.id].initial()
        if setup.rules.method.federated:
            weights |= {name: tensor.clone() for name, tensor in server.weights.items() if name in weights}
        sites[member.id] = site_start(weights, setup.rules, member.modalities)
    return MethodState(server=server, sites=sites, seconds=time.perf_counter() - started)


def _round(setup: Setup, state: MethodState, metrics: Metrics, observer: Observer) -> MethodState:
    """One round of all members."""
    started = time.perf_counter()
    number = state.server.round_number + 1
    accumulator = Accumulator(setup.rules.layout)
    sites: dict[str, SiteState] = {}
    members = setup.federation.sites if setup.sites else ()
    for member, result in _at_once(setup, partial(_site, setup, state, observer), members):
        sites[member.id] = result.state
        accumulator.add(result.contribution)
        _write_training(metrics, number, member.id, result.trained)
        _write_personal(metrics, number, member, result.state, setup.rules)
    opened = open_sum(accumulator, setup.rules.formats) if accumulator.sites else _NOTHING_OPENED
    server, trained = server_round(
        state.server, opened, _train(setup, setup.server, SERVER_ID, observer), _release(setup), rules=setup.rules
    )
    _write_training(metrics, number, SERVER_ID, trained)
    _write_aggregate(metrics, number, opened)
    new = MethodState(server=server, sites=sites, best=state.best, seconds=state.seconds)
    if number % setup.config.evaluation.every == 0 or number == setup.config.run.rounds:
        new = replace(new, best=_validate(setup, new, state.server.anchors, metrics, observer))
    return replace(new, seconds=state.seconds + time.perf_counter() - started)


def _site(setup: Setup, state: MethodState, observer: Observer, member: FederationMember) -> SiteResult:
    """A site's part of a round."""
    learner = setup.sites[member.id]
    return site_round(
        state.sites[member.id],
        broadcast(state.server, setup.rules, member.modalities, setup.roster),
        _train(setup, learner, member.id, observer),
        rules=setup.rules,
        own=member.modalities,
        site=member.id,
        samples=learner.samples,
    )


def _at_once(
    setup: Setup, work: Callable[[FederationMember], T], members: Sequence[FederationMember]
) -> Iterator[tuple[FederationMember, T]]:
    """Do each member's work, several at a time where configured, and yield the results in the members' order.

    Members share nothing but the configuration, so the results do not depend on how many work at a time. Members of a
    pooled method share one network and take turns. One at a time works in the caller's thread, where Ctrl-C acts at
    once; several end their part of the round first.
    """
    if setup.config.compute.at_once == 1 or not setup.sites:
        yield from ((member, work(member)) for member in members)
        return
    threads = torch.get_num_threads()
    count = setup.config.compute.at_once
    with ThreadPoolExecutor(count, initializer=partial(torch.set_num_threads, threads)) as pool:
        try:
            yield from zip(members, pool.map(work, members), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure or Ctrl-C only the members at work end their part


def _train(setup: Setup, learner: Learner, member: str, observer: Observer) -> Trainer:
    """Bind a learner to what rounds call."""
    training = setup.config.training
    epochs = training.server_epochs if member == SERVER_ID else training.local_epochs
    steps = [training.steps or source.steps(epochs) for source in learner.sources]
    return Trainer(learner, steps, partial(observer.step, member))


@dataclass(frozen=True, slots=True)
class Trainer:
    """Local training as `fedmepd.rounds` sees it: a learner, how many steps, and who watches."""

    learner: Learner
    steps: Sequence[int]
    hook: partial[None]

    def __call__(
        self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor], anchors: Anchors | None, round_number: int
    ) -> Trained:
        """Train for one round."""
        return self.learner.train(
            weights, moments, anchors=anchors, round_number=round_number, steps=self.steps, hook=self.hook
        )


def _release(setup: Setup) -> AnchorMaker | None:
    clusters = clusters_of(setup.rules.method, setup.config)
    return AnchorMaker(setup.server, setup.config, clusters) if clusters and setup.sites else None


@dataclass(frozen=True, slots=True)
class AnchorMaker:
    """Anchors without privacy noise: prototypes at fixed weights, clustered, averaged over rounds."""

    learner: Learner
    config: Config
    clusters: int

    def __call__(self, weights: Mapping[str, Tensor], previous: Anchors | None, round_number: int) -> Anchors:
        """Return the anchors of a round."""
        settings = self.config.anchors
        latest = cluster(
            self.learner.prototypes(weights),
            clusters=self.clusters,
            weighting=settings.weighting,
            previous=previous,
            seed=seed_of("kmeans", self.config.run.seed, round_number) % (1 << 31),
        )
        half_life = self.config.rounds_of(settings.half_life)
        return smooth(previous, latest, weighting=settings.weighting, half_life=half_life)


def model_of(setup: Setup, state: MethodState, member: FederationMember) -> tuple[Learner, Mapping[str, Tensor]]:
    """Return the learner and weights that a member applies after a round."""
    if member.id in state.sites:
        return setup.sites[member.id], state.sites[member.id].weights
    return setup.server, state.server.weights


def _validate(
    setup: Setup, state: MethodState, anchors: Anchors | None, metrics: Metrics, observer: Observer
) -> dict[str, Best]:
    """Score every member on its validation cases and keep its best model; without such cases, the latest."""
    best = dict(state.best)
    number = state.server.round_number
    score_member = partial(_score, setup, state, anchors, observer)
    members = setup.federation.members
    for member, dice in _at_once(setup, score_member, members):
        learner, weights = model_of(setup, state, member)
        used = anchors if learner.architecture.calibration else None
        score = 0.0
        if dice:
            score = sum(dice.values()) / len(dice)
            metrics.write(number, member.id, "validate", dice=dice, mean=score)
            observer.scored(member.id, score)
        known = best.get(member.id)
        if known is None or score > known.score or not member.patients.validate:
            best[member.id] = Best(round_number=number, score=score, weights=weights, anchors=used)
    return best


def _score(
    setup: Setup, state: MethodState, anchors: Anchors | None, observer: Observer, member: FederationMember
) -> dict[str, float]:
    """Return a member's mean Dice per region on its validation cases; empty without such cases."""
    if not member.patients.validate:
        return {}
    observer.validating(member.id)
    learner, weights = model_of(setup, state, member)
    used = anchors if learner.architecture.calibration else None
    return validate(learner, weights, used, member, setup.federation.task, setup.config.evaluation)


def _write_training(metrics: Metrics, number: int, member: str, trained: Trained) -> None:
    metrics.write(number, member, "train", loss=trained.loss, seconds=trained.seconds, steps=trained.steps)


def _write_personal(metrics: Metrics, number: int, member: FederationMember, state: SiteState, rules: Rules) -> None:
    if rules.method.decoder != "partial":
        return
    layers = personal_fractions(state, rules, member.modalities)
    personal, slots = (sum(pair[i] for pair in layers.values()) for i in (0, 1))
    shares = {layer: own / everything for layer, (own, everything) in layers.items()}
    metrics.write(number, member.id, "personal", total=personal / slots, layers=shares)


def _write_aggregate(metrics: Metrics, number: int, opened: Opened) -> None:
    if not opened.sites:
        return
    slots = sum(len(segment.contributed) for segment in opened.segments.values())
    is_open = sum(int(segment.contributed.sum()) for segment in opened.segments.values())
    share = is_open / slots if slots else 1.0
    metrics.write(number, "federation", "aggregate", open=share, contributors=len(opened.sites))
