"""Numbered reports survive crashes: the same number means the same bytes."""

from __future__ import annotations

import json

import pytest

from protos import codec
from protos.terms import (
    Accepted,
    Advertised,
    ArtefactRef,
    Confirmed,
    DeclineCause,
    Declined,
    Finished,
    Masked,
    Prepared,
    ReportReply,
    RoundId,
    SealedShare,
    SeedShare,
    SegmentSlice,
    Shared,
    Submitted,
    Trained,
    Unmasked,
    VectorManifest,
)
from protos.v1 import federation_pb2 as messages
from site_agent.errors import StateError, StorageError
from site_agent.reports import Ledger
from site_agent.session import Made

ROUND = RoundId(run="r", round_number=1)
VECTOR = ArtefactRef(sha256="a" * 64, size=4)


def reply(sequence, *, in_round=True):
    return ReportReply(sequence=sequence, in_round=in_round, message="")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "reports.json"


def test_a_pending_report_is_the_same_bytes_after_a_crash(path):
    request = Ledger(path).prepare(ROUND, Accepted())
    after = Ledger(path)
    assert after.pending == request
    assert after.prepare(ROUND, Submitted(vector=VECTOR)) == request, "one report is under way at a time"
    assert codec.decode_report(messages.ReportRequest.FromString(request)).sequence == 1


def test_an_answer_takes_the_number_and_is_remembered(path):
    ledger = Ledger(path)
    ledger.prepare(ROUND, Accepted())
    ledger.answered(reply(1))
    after = Ledger(path)
    assert (after.last, after.pending) == (1, None)
    assert after.made(ROUND).accepted
    assert not after.made(RoundId(run="r", round_number=1, attempt=2)).accepted


SLICES = (SegmentSlice(name="common", values=1),)
MANIFEST = VectorManifest(segments=SLICES, vector=VECTOR)
BODIES = [
    (Accepted(), {"accepted": True}),
    (Trained(manifest=MANIFEST, seconds=1.0), {"trained": VECTOR}),
    (Prepared(segments=SLICES, seconds=1.0), {"prepared": True}),
    (
        Advertised(channel_key=b"c" * 32, mask_key=b"m" * 32, minimum=4, colluders=0, signature=b"s" * 64),
        {"advertised": True},
    ),
    (
        Shared(commitments=(b"h" * 32,), shares=(SealedShare(site="b", sealed=b"x" * 82),)),
        {"shared": True},
    ),
    (Masked(manifest=MANIFEST), {"masked": VECTOR}),
    (Submitted(vector=VECTOR), {"submitted": True}),
    (Confirmed(signature=b"s" * 64), {"confirmed": True}),
    (Unmasked(seeds=(SeedShare(site="b", segment="common", share=b"x" * 33),), keys=()), {"unmasked": True}),
]


@pytest.mark.parametrize(("body", "made"), BODIES, ids=lambda value: type(value).__name__)
def test_every_report_is_remembered_once_it_was_answered(path, body, made):
    ledger = Ledger(path)
    request = ledger.prepare(ROUND, body)
    assert Ledger(path).pending == request
    assert Ledger(path).made(ROUND) == Made()
    ledger.answered(reply(1))
    assert Ledger(path).made(ROUND) == Made(**made)


def test_a_ledger_of_an_earlier_release_is_read(path):
    ledger = Ledger(path)
    ledger.prepare(ROUND, Submitted(vector=VECTOR))
    ledger.answered(reply(1))
    data = json.loads(path.read_text())
    data["made"] = {name: data["made"][name] for name in ("accepted", "trained", "submitted", "out")}
    path.write_text(json.dumps(data))
    assert Ledger(path).made(ROUND) == Made(submitted=True)


def test_a_refused_report_has_no_number(path):
    ledger = Ledger(path)
    ledger.prepare(ROUND, Accepted())
    assert ledger.refused().body == Accepted()
    request = ledger.prepare(ROUND, Submitted(vector=VECTOR))
    assert codec.decode_report(messages.ReportRequest.FromString(request)).sequence == 1


@pytest.mark.parametrize(
    ("body", "in_round"), [(Accepted(), False), (Declined(cause=DeclineCause.POLICY, problem="no"), True)]
)
def test_who_is_not_in_the_round_is_out_of_it(path, body, in_round):
    ledger = Ledger(path)
    ledger.prepare(ROUND, body)
    ledger.answered(reply(1, in_round=in_round))
    assert Ledger(path).made(ROUND).out


def test_the_end_of_a_run_is_remembered_beside_its_last_round(path):
    ledger = Ledger(path)
    ledger.prepare(ROUND, Accepted())
    ledger.answered(reply(1, in_round=False))
    ledger.prepare(ROUND, Finished())
    ledger.answered(reply(2))
    made = Ledger(path).made(ROUND)
    assert made.finished
    assert Ledger(path).finished == "r"


def test_a_lost_number_is_taken_from_the_coordinator(path):
    ledger = Ledger(path)
    assert "was it restored" in ledger.reconcile(7, answered=0)
    request = ledger.prepare(ROUND, Accepted())
    assert codec.decode_report(messages.ReportRequest.FromString(request)).sequence == 8


def test_answers_that_lag_behind_are_innocent(path):
    ledger = Ledger(path)
    ledger.prepare(ROUND, Accepted())
    assert ledger.reconcile(1, answered=0) is None, "our pending report has arrived"
    ledger.answered(reply(1))
    assert ledger.reconcile(0, answered=0) is None, "asked for before the report was answered"
    assert ledger.last == 1


def test_a_database_that_was_set_back_is_named_and_all_is_told_again(path):
    ledger = Ledger(path)
    ledger.prepare(ROUND, Accepted())
    ledger.answered(reply(1))
    assert "set back" in ledger.reconcile(0, answered=1)
    assert ledger.last == 0
    assert not ledger.made(ROUND).accepted


def test_a_damaged_ledger_names_the_way_out(path):
    path.write_text('{"last": "x"}')
    with pytest.raises(StateError, match="move it away"):
        Ledger(path)


def test_a_full_disk_reports_nothing(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    ledger = Ledger(path)
    monkeypatch.setattr("site_agent.reports.write_text", full)
    with pytest.raises(StorageError, match="full"):
        ledger.prepare(ROUND, Accepted())
    assert ledger.pending is None
