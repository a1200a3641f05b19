"""The simulated federation: all members in one process, round by round, resumable.

The driver only: what a round means is in `fedmepd.rounds`, what each member does in it in `fedmepd.participants`. After
each round the state is durable, so that a crash, a full disk or Ctrl-C loses at most the round in progress.
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

from fedmepd.aggregation import Accumulator, open_sum
from fedmepd.anchors import Anchors
from fedmepd.checkpoints import MethodState, load_checkpoint, save_checkpoint
from fedmepd.compute import Backend
from fedmepd.config import Config
from fedmepd.federation import Federation, FederationMember
from fedmepd.participants import LeadParticipant, SiteParticipant, Validated, validate_member
from fedmepd.private_anchors import PrivacyHooks
from fedmepd.records import aggregate_record, personal_record, training_record, validation_record
from fedmepd.round_state import Rules, SiteResult, SiteState
from fedmepd.rounds import start_weights
from fedmepd.runs import Metrics, RunFolder
from fedmepd.runspec import RunSpec
from fedmepd.sections import SERVER_ID
from fedmepd.training import Learner

T = TypeVar("T")


class Observer(Protocol):
    """Who watches a simulation; every call is optional to act on."""

    def round_begins(self, method: str, round_number: int, rounds: int) -> None:
        """Announce a round."""

    def step(self, member: str, done: int, steps: int, loss: float | None) -> None:
        """Report an optimiser step; the loss of private training is omitted."""

    def validating(self, member: str) -> None:
        """Announce a member's validation."""

    def scored(self, member: str, score: float) -> None:
        """Report a member's mean validation Dice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a method's run works with, fixed for all rounds."""

    config: Config
    federation: Federation
    lead: LeadParticipant
    sites: Mapping[str, SiteParticipant]

    @property
    def rules(self) -> Rules:
        """The run's rules."""
        return self.lead.rules

    @property
    def server(self) -> Learner:
        """What the server computes with."""
        return self.lead.learner

    @property
    def roster(self) -> Mapping[str, int]:
        """Sites per segment."""
        return self.lead.owners


def set_up(
    config: Config,
    federation: Federation,
    method_name: str,
    backend: Backend,
    *,
    privacy: PrivacyHooks | None = None,
) -> Setup:
    """Build the participants of a method.

    Args:
        config: Configuration of the run.
        federation: Its members.
        method_name: Which of its methods.
        backend: Where to compute.
        privacy: For the private parts of the configuration; needed where it has any.

    Raises:
        ConfigError: If the method or the sums' range is impossible, or `privacy` is needed and missing.
    """
    plan = config.plan(method_name)
    sites = () if plan.method.pooled else federation.sites
    spec = RunSpec(run_id=config.run.name, plan=plan, sites={site.id: site.modalities for site in sites})
    pooled = federation.members if plan.method.pooled else federation.members[:1]
    workers = config.compute.workers
    return Setup(
        config=config,
        federation=federation,
        lead=LeadParticipant(spec, pooled, backend, workers=workers, privacy=privacy),
        sites={site.id: SiteParticipant(spec, site, backend, workers=workers, privacy=privacy) for site in sites},
    )


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
    server, trained = setup.lead.start(partial(observer.step, SERVER_ID))
    metrics.write(0, SERVER_ID, "train", **training_record(trained))
    start = start_weights(server, setup.rules)
    sites = {site: participant.start(start) for site, participant in setup.sites.items()}
    return MethodState(server=server, sites=sites, seconds=time.perf_counter() - started)


def _round(setup: Setup, state: MethodState, metrics: Metrics, observer: Observer) -> MethodState:
    """One round of all members."""
    started = time.perf_counter()
    number = state.server.round_number + 1
    accumulator = Accumulator(setup.rules.layout)
    sites: dict[str, SiteState] = {}
    members = [setup.sites[site].member for site in setup.sites]
    for member, result in _at_once(setup, partial(_site, setup, state, observer), members):
        sites[member.id] = result.state
        accumulator.add(result.contribution)
        metrics.write(number, member.id, "train", **training_record(result.trained))
        if personal := personal_record(result.state, setup.rules, member.modalities):
            metrics.write(number, member.id, "personal", **personal)
    opened = open_sum(accumulator, setup.rules.formats) if accumulator.sites else None
    server, trained = setup.lead.round(state.server, opened, partial(observer.step, SERVER_ID))
    metrics.write(number, SERVER_ID, "train", **training_record(trained))
    if opened is not None:
        metrics.write(number, "federation", "aggregate", **aggregate_record(opened, setup.rules))
    new = MethodState(server=server, sites=sites, best=state.best, seconds=state.seconds)
    if setup.config.validates_in(number):
        new = _validate(setup, new, state.server.anchors, metrics, observer)
    return replace(new, seconds=state.seconds + time.perf_counter() - started)


def _site(setup: Setup, state: MethodState, observer: Observer, member: FederationMember) -> SiteResult:
    """A site's part of a round."""
    received = setup.lead.broadcast(state.server, member.modalities)
    return setup.sites[member.id].round(state.sites[member.id], received, partial(observer.step, member.id))


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


def model_of(setup: Setup, state: MethodState, member: FederationMember) -> tuple[Learner, Mapping[str, Tensor]]:
    """Return the learner and weights that a member applies after a round."""
    if member.id in state.sites:
        return setup.sites[member.id].learner, state.sites[member.id].weights
    return setup.server, state.server.weights


def _validate(
    setup: Setup, state: MethodState, anchors: Anchors | None, metrics: Metrics, observer: Observer
) -> MethodState:
    """Score every member on its validation cases; keep its best model, and at sites the scores."""
    best, sites = dict(state.best), dict(state.sites)
    score_member = partial(_score, setup, state, anchors, observer)
    for member, found in _at_once(setup, score_member, setup.federation.members):
        best[member.id] = found.best
        if member.id in sites:
            sites[member.id] = replace(sites[member.id], dice=found.dice)
        if found.dice:
            metrics.write(state.server.round_number, member.id, "validate", **validation_record(found))
            observer.scored(member.id, found.score)
    return replace(state, best=best, sites=sites)


def _score(
    setup: Setup, state: MethodState, anchors: Anchors | None, observer: Observer, member: FederationMember
) -> Validated:
    """Validate a member with its model after this round."""
    if member.patients.validate:
        observer.validating(member.id)
    learner, weights = model_of(setup, state, member)
    return validate_member(
        learner,
        weights,
        anchors,
        member=member,
        plan=setup.lead.spec.plan,
        known=state.best.get(member.id),
        round_number=state.server.round_number,
    )
