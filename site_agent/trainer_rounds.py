"""A site's part of a round in the training worker: files in, contribution and new state out, safe against kills.

The contribution is written first, then the best model, then the state, whose rename commits the round. Training without
noise is deterministic, so whatever a kill leaves, the same job gives the same bytes again. With noise (SPEC 15) it
never is: a round that is committed is not trained again as long as its contribution is still there, so that the same
bytes leave again. What is paid for by a debit under which something was released is never trained: where that or the
state that goes with it is gone, as after a backup, the job says `lost`, and whoever drives the worker pays anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedmepd.anchors import Anchors
from fedmepd.artefacts import SegmentValues, dump_contribution, parse_segment, parse_tensors
from fedmepd.durable import write_bytes
from fedmepd.errors import ConfigError, UpdateError
from fedmepd.jobs import Inputs, SiteRound
from fedmepd.member_states import commit_member, digest_of, key_of, load_best, load_tensors, read_artefact
from fedmepd.participants import SiteParticipant, Validated
from fedmepd.records import personal_record, training_record, validation_record
from fedmepd.round_state import Broadcast, SiteResult, SiteState
from fedmepd.round_store import RoundStore
from fedmepd.runs import Metrics
from fedmepd.states import site_state, site_tensors
from fedmepd.workbench import anchor_shapes, anchors_from
from fedmepd.worker import Progress


def train_round(job: SiteRound, participant: SiteParticipant, progress: Progress) -> dict[str, Any]:
    """Do a site's part of a round, or return what it gave when it is done already; `lost` if that is not there.

    Raises:
        UpdateError: If an artefact is wrong or missing, or training diverged.
        ConfigError: If there are other patients than the round's privacy was reckoned for.
        RunError: If the state is damaged or of another run.
    """
    store = RoundStore(job.state_dir, run_id=participant.spec.run_id)
    key = _key(job)
    done = store.done(job.round, key)
    given = done["result"] if done is not None and _contributed(job, done["result"]) else None
    if job.released is not None and (given is None or given["sha256"] != job.released):
        return {"lost": True}
    if given is not None:
        return {**given, "repeated": True}
    _check_patients(job, participant)
    base = store.base_of(job.round)
    before = {} if base is None else store.facts(base)
    state, warnings = _state(job, participant, store, base)
    received = _received(job.inputs, job.round, participant)
    trained = participant.round(
        state, received, lambda n, of, loss: progress(phase="training", done=n, of=of, loss=loss)
    )
    found, kept = None, trained.state
    if participant.spec.plan.validates_in(job.round):
        progress(phase="validating", done=0, of=len(participant.member.patients.validate))
        found = participant.validate(trained.state, received.anchors, load_best(store, before))
        kept = replace(kept, dice=found.dice)
    _record(job, participant, trained, found)
    own = _own(trained, found, personal_record(trained.state, participant.rules, participant.member.modalities))
    result = {**_contribute(job, participant, trained), **own, "warnings": warnings}
    commit_member(
        store,
        job.round,
        site_tensors(kept),
        {"key": key, "result": result},
        best=None if found is None else found.best,
        before=before,
    )
    return {**result, "repeated": False}


def _key(job: SiteRound) -> str:
    inputs = job.inputs
    files = {name: digest_of(path) for name, path in inputs.segments.items()}
    anchors = None if inputs.anchors is None else digest_of(inputs.anchors)
    return key_of(job.spec, job.round, files, anchors, inputs.owners, inputs.samples)


def _check_patients(job: SiteRound, participant: SiteParticipant) -> None:
    """Check that noise and sampling are those that were paid for."""
    private = participant.spec.plan.privacy.sites is not None
    if private and job.patients != participant.learner.patients:
        raise ConfigError(
            f"the round's privacy was reckoned for {job.patients} training patients, there are "
            f"{participant.learner.patients}",
            remedy="the agent opens the cohort anew before it pays: try the round again",
        )


def _contributed(job: SiteRound, result: Mapping[str, Any]) -> bool:
    path = job.out_dir / result["contribution"]
    return path.is_file() and path.stat().st_size == int(result["bytes"]) and digest_of(path) == str(result["sha256"])


def _state(
    job: SiteRound, participant: SiteParticipant, store: RoundStore, base: int | None
) -> tuple[SiteState, list[str]]:
    """Return the state that the round starts from, and what a person should know about it."""
    if base is not None:
        return site_state(base, load_tensors(store.state_path(base))), []
    warnings = []
    if job.round > 1:
        warnings.append("no state of an earlier round: the site starts from the global model")
    return participant.start(_start_weights(job.inputs, participant)), warnings


def _start_weights(inputs: Inputs, participant: SiteParticipant) -> dict[str, Tensor]:
    if not participant.rules.method.federated:
        return {}
    if inputs.start is None:
        raise UpdateError("the start weights are missing", remedy="download them: the site has no earlier state")
    own = participant.learner.network.state_dict()
    expected = {
        name: tuple(tensor.shape) for name, tensor in own.items() if not name.startswith(("encoders.", "calibration."))
    }
    arrays = parse_tensors(read_artefact(inputs.start), expected, what="start weights")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _received(inputs: Inputs, round_number: int, participant: SiteParticipant) -> Broadcast:
    """Read and check the download."""
    segments = participant.rules.layout.for_member(participant.member.modalities)
    names = {segment.name for segment in segments}
    for what, given in (("segments", set(inputs.segments)), ("owners", set(inputs.owners))):
        if given != names:
            raise UpdateError(f"{what}: the site needs exactly {', '.join(sorted(names))}")
    values: dict[str, SegmentValues] = {
        s.name: parse_segment(read_artefact(inputs.segments[s.name]), s) for s in segments
    }
    return Broadcast(
        round_number=round_number,
        plain={name: value.plain for name, value in values.items()},
        filters={name: value.filters for name, value in values.items()},
        anchors=_anchors(inputs, participant),
        counts={name: value.counts for name, value in values.items()},
        owners=inputs.owners,
        samples=inputs.samples,
    )


def _anchors(inputs: Inputs, participant: SiteParticipant) -> Anchors | None:
    shapes = anchor_shapes(participant.spec.plan)
    if bool(shapes) != (inputs.anchors is not None):
        raise UpdateError(f"method {participant.rules.method.name!r} {'needs' if shapes else 'has no'} anchors")
    if inputs.anchors is None:
        return None
    return anchors_from(parse_tensors(read_artefact(inputs.anchors), shapes, what="anchors"))


def _record(job: SiteRound, participant: SiteParticipant, result: SiteResult, found: Validated | None) -> None:
    """Write the site's own records; those of a round that is done again are replaced."""
    member = participant.member
    metrics = Metrics(job.state_dir, after_round=job.round - 1, board=False)
    metrics.write(job.round, member.id, "train", **training_record(result.trained))
    if personal := personal_record(result.state, participant.rules, member.modalities):
        metrics.write(job.round, member.id, "personal", **personal)
    if found is not None and found.dice:
        metrics.write(job.round, member.id, "validate", **validation_record(found))
    metrics.close()


def _contribute(job: SiteRound, participant: SiteParticipant, result: SiteResult) -> dict[str, Any]:
    path = job.out_dir / f"contribution-{job.round:06d}.bin"
    content = dump_contribution(result.contribution, participant.rules.layout)
    write_bytes(path, content)
    return {"round": job.round, "contribution": path.name, "bytes": len(content), "sha256": digest_of(path)}


def _own(result: SiteResult, found: Validated | None, personal: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stays at the site: for its own report and metrics."""
    dice = None if found is None or not found.dice else {"regions": dict(found.dice), "mean": found.score}
    trained = result.trained
    return {
        "loss": trained.loss,
        "seconds": trained.seconds,
        "steps": trained.steps,
        "dice": dice,
        "personal": personal.get("layers", {}),
    }
