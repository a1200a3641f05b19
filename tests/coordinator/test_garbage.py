"""What is removed after a round, and what no announcement of a site can have removed."""

from __future__ import annotations

from dataclasses import replace

from coordinator import events as ev
from coordinator.garbage import garbage_of
from coordinator.state import SiteStatus
from protos.terms import SegmentSlice, VectorManifest
from tests.coordinator.runs_at_hand import SITES, Scene, manifest, publication, ref, started


def ended(scene: Scene) -> ev.RoundEnded:
    (effect,) = scene.take(ev.RoundEnded)
    assert isinstance(effect, ev.RoundEnded)
    return effect


def test_inputs_sum_and_the_old_broadcast_go_and_models_stay() -> None:
    scene = started()
    scene.whole_round()
    garbage = garbage_of(ended(scene), scene.state, frozenset())
    assert {manifest(site).vector for site in SITES} | {ref("sum")} <= garbage
    assert set(publication(0).segments.values()) <= garbage
    assert not garbage & {
        ref("start"),
        ref("layout"),
        ref("model0"),
        *publication(1).segments.values(),
        scene.state.spec,
    }


def test_an_announcement_with_the_hash_of_something_needed_removes_nothing() -> None:
    scene = started()
    scene.whole_round()
    effect = ended(scene)
    needed = (scene.state.spec, ref("common1"), ref("a kept model"))
    forged = [replace(known, size=known.size + 1) for known in needed]
    participants = tuple(
        replace(p, manifest=VectorManifest(segments=(SegmentSlice(name="common", values=1),), vector=vector))
        for p, vector in zip(effect.record.participants, forged, strict=True)
    )
    record = replace(effect.record, participants=participants)
    assert {p.status for p in participants} == {SiteStatus.CONTRIBUTED}
    garbage = garbage_of(replace(effect, record=record), scene.state, frozenset({forged[2].sha256}))
    assert not {known.sha256 for known in forged} & {found.sha256 for found in garbage}
