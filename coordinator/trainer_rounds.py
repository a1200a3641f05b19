"""The server's part of a round in the training worker: an opened sum in, a new state and its artefacts out.

The state is committed first, by one rename; the artefacts of the next round follow from it alone and are written
after it, so a job that is done again writes the same bytes without training again. Noised anchors and privately trained
weights are part of that state: what was killed before the commit leaves nothing, what was killed after it leaves the
same noise once more. A job says how many patients its privacy was reckoned for; with another number nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from fedmepd.aggregation import Opened, open_sum
from fedmepd.artefacts import SegmentValues, dump_segment, dump_tensors, map_words, parse_sum
from fedmepd.durable import write_bytes
from fedmepd.errors import RunError, UpdateError
from fedmepd.jobs import LeadRound, LeadStart, Sum
from fedmepd.layout_json import layout_digest, layout_to_json
from fedmepd.member_states import commit_member, digest_of, key_of, load_best, load_tensors
from fedmepd.outcome import save_member_model
from fedmepd.participants import LeadParticipant, Validated
from fedmepd.records import aggregate_record, cohort_record, training_record, validation_record
from fedmepd.round_state import ServerState
from fedmepd.round_store import RoundStore
from fedmepd.rounds import start_weights
from fedmepd.runs import Metrics
from fedmepd.sections import SERVER_ID
from fedmepd.states import Best, server_state, server_tensors
from fedmepd.training import Trained
from fedmepd.workbench import anchor_arrays
from fedmepd.worker import Progress


def train_start(job: LeadStart, lead: LeadParticipant, progress: Progress) -> dict[str, Any]:
    """Do round 0, or return what it gave when it is done already.

    Raises:
        UpdateError: If training diverged.
    """
    store, key = RoundStore(job.state_dir, run_id=lead.spec.run_id), key_of(job.spec)
    done = store.done(0, key)
    if done is None:
        _check_patients(job, lead)
        released = _mechanisms(lead)
        state, trained = lead.start(
            lambda n, of, loss: progress(phase="training", done=n, of=of, loss=loss),
            permitted=job.release,
            released=lambda _: released.append("anchors"),
        )
        _record(job.state_dir, 0, trained, lead)
        _commit(store, state, key, _result(lead, trained, None, None, {}), before={}, best=None, released=released)
    return _published(job, lead, store, 0, repeated=done is not None)


def train_round(job: LeadRound, lead: LeadParticipant, progress: Progress) -> dict[str, Any]:
    """Do the server's part of a round, or return what it gave when it is done already.

    Raises:
        UpdateError: If the sum is wrong, or training diverged.
        RunError: If the state is damaged, of another run, or not of the round before.
    """
    store = RoundStore(job.state_dir, run_id=lead.spec.run_id)
    key = key_of(job.spec, job.round, None if job.sum is None else _sum_key(job.sum))
    done = store.done(job.round, key)
    if done is None:
        base = store.base_of(job.round)
        if base != job.round - 1:
            raise RunError(
                f"the server's state in {job.state_dir} is of round {base}, round {job.round} needs the one before it",
                remedy="restore the state folder from a backup",
            )
        _check_patients(job, lead)
        before, released = store.facts(base), _mechanisms(lead)
        opened = None if job.sum is None else _opened(job.sum, lead)
        state, trained = lead.round(
            server_state(before["server"], load_tensors(store.state_path(base))),
            opened,
            lambda n, of, loss: progress(phase="training", done=n, of=of, loss=loss),
            permitted=job.release,
            released=lambda _: released.append("anchors"),
        )
        found = None
        if lead.spec.plan.validates_in(job.round):
            progress(phase="validating", done=0, of=len(lead.member.patients.validate))
            found = lead.validate(state, load_best(store, before))
        _record(job.state_dir, job.round, trained, lead, opened, found)
        result, best = _result(lead, trained, opened, found, before), None if found is None else found.best
        _commit(store, state, key, result, before=before, best=best, released=released)
    return _published(job, lead, store, job.round, repeated=done is not None)


def _check_patients(job: LeadStart, lead: LeadParticipant) -> None:
    """Check that a job's privacy was reckoned for the patients that there are."""
    if job.patients is not None and job.patients != lead.learner.patients:
        raise RunError(
            f"there are {lead.learner.patients} training patients, and the round's privacy was reckoned for "
            f"{job.patients}",
            remedy="restart the coordinator, which then counts them anew; a cohort should not change during a run",
        )


def _mechanisms(lead: LeadParticipant) -> list[str]:
    """Return the mechanisms by which the round releases something whatever the budget of anchors."""
    return [] if lead.spec.plan.privacy.server is None else ["training"]


def _sum_key(total: Sum) -> list[Any]:
    return [digest_of(total.path), total.contributors, list(total.sites)]


def _opened(total: Sum, lead: LeadParticipant) -> Opened:
    """Read, check and open a sum."""
    strangers = sorted(set(total.sites) - set(lead.spec.sites))
    if strangers or len(set(total.sites)) != len(total.sites):
        raise UpdateError(f"the sum names {strangers[0]!r}" if strangers else "the sum names a site twice")
    layout = lead.rules.layout
    accumulator = parse_sum(map_words(total.path), layout, contributors=total.contributors, sites=total.sites)
    owners = {
        s.name: sum(s.modality is None or s.modality in lead.spec.sites[site] for site in total.sites)
        for s in layout.segments
    }
    opened = open_sum(accumulator, lead.rules.formats)
    for name, segment in opened.segments.items():
        if not segment.contributors == total.contributors[name] == owners[name]:
            raise UpdateError(
                f"the sum holds {segment.contributors} contributors to segment {name!r}, "
                f"{total.contributors[name]} were stated and {owners[name]} of its sites own it"
            )
    return opened


def _commit(
    store: RoundStore,
    state: ServerState,
    key: str,
    result: Mapping[str, Any],
    *,
    before: Mapping[str, Any],
    best: Best | None,
    released: list[str],
) -> None:
    facts = {
        "key": key,
        "released": released,
        "server": {"round_number": state.round_number, "samples": state.samples},
        "result": result,
    }
    commit_member(store, state.round_number, server_tensors(state), facts, best=best, before=before)


def _result(
    lead: LeadParticipant,
    trained: Trained,
    opened: Opened | None,
    found: Validated | None,
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what is told of a round beside its artefacts.

    `cohort` is of the last opened sum, `last_dice` of the server's last validation: a round without one keeps the one
    before. A server that trains privately tells no Dice: its validation patients have no noise.
    """
    earlier = before.get("result", {})
    dice = _dice(found)
    told = dice["regions"] if dice is not None else earlier.get("last_dice", {})
    return {
        "loss": trained.loss,
        "seconds": trained.seconds,
        "steps": trained.steps,
        "dice": dice,
        "cohort": earlier.get("cohort") if opened is None else cohort_record(opened, lead.rules),
        "last_dice": told if lead.spec.plan.privacy.server is None else {},
    }


def _dice(found: Validated | None) -> dict[str, Any] | None:
    return None if found is None or not found.dice else {"regions": dict(found.dice), "mean": found.score}


def _record(
    folder: Path,
    round_number: int,
    trained: Trained,
    lead: LeadParticipant,
    opened: Opened | None = None,
    found: Validated | None = None,
) -> None:
    """Write the server's records; those of a round that is done again are replaced."""
    metrics = Metrics(folder, after_round=round_number - 1, board=False)
    metrics.write(round_number, SERVER_ID, "train", **training_record(trained))
    if opened is not None:
        metrics.write(round_number, "federation", "aggregate", **aggregate_record(opened, lead.rules))
    if found is not None and found.dice:
        metrics.write(round_number, SERVER_ID, "validate", **validation_record(found))
    metrics.close()


def _published(
    job: LeadStart, lead: LeadParticipant, store: RoundStore, round_number: int, *, repeated: bool
) -> dict[str, Any]:
    """Write the artefacts of the next round and return where they are."""
    facts = store.facts(round_number)
    state = server_state(facts["server"], load_tensors(store.state_path(round_number)))
    sent, out = lead.broadcast(state, lead.rules.layout.modalities), job.out_dir
    segments = {
        name: _artefact(
            out / f"segment-{name.replace('/', '-')}.bin",
            dump_segment(SegmentValues(plain=sent.plain[name], filters=sent.filters[name], counts=sent.counts[name])),
        )
        for name in sent.plain
    }
    anchors, start = None, None
    if state.anchors is not None:
        anchors = _artefact(out / "anchors.safetensors", dump_tensors(anchor_arrays(state.anchors)))
    if round_number == 0 and lead.rules.method.federated:
        arrays = {name: tensor.numpy() for name, tensor in start_weights(state, lead.rules).items()}
        start = _artefact(out / "start.safetensors", dump_tensors(arrays))
    model = out / f"model-{facts['key'][:16]}.safetensors"  # another attempt of the round is another model
    return {
        "round": round_number,
        "segments": segments,
        "anchors": anchors,
        "start": start,
        "model": _model(model, state, lead),
        "released": _released(facts.get("released", []), anchors, model),
        "owners": dict(lead.owners),
        "samples": state.samples,
        "layout": layout_to_json(lead.rules.layout),
        "layout_digest": layout_digest(lead.rules.layout),
        **facts["result"],
        "repeated": repeated,
    }


def _released(mechanisms: list[str], anchors: dict[str, Any] | None, model: Path) -> dict[str, str]:
    """Name what was released: anchors by the hash of their file, weights by the digest in the model's header."""
    found = {}
    if "anchors" in mechanisms and anchors is not None:
        found["anchors"] = str(anchors["sha256"])
    if "training" in mechanisms:
        with safe_open(model, framework="np") as opened:
            found["training"] = opened.metadata()["digest"]
    return found


def _model(path: Path, state: ServerState, lead: LeadParticipant) -> dict[str, Any]:
    """Write the global model as a model file, unless it is there: the order of its header is not fixed."""
    if not path.is_file():
        now = Best(round_number=state.round_number, score=0.0, weights=state.weights, anchors=None)
        save_member_model(lead.spec.plan, lead.learner, now, lead.member, path)
    return _described(path)


def _artefact(path: Path, content: bytes) -> dict[str, Any]:
    write_bytes(path, content)
    return _described(path)


def _described(path: Path) -> dict[str, Any]:
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": digest_of(path)}
