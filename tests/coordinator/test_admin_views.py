"""What operators see: rows and states as messages, and messages as what commands print."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.cli.admin.output import ago, plain, when
from coordinator.cli.admin.screen import bar, heading, progress
from coordinator.cli.admin.watching import changes
from coordinator.records import (
    AuditRow,
    EnrolmentRequest,
    MemberRow,
    MemberState,
    ModelRow,
    RoundRow,
    RunRow,
    TokenRow,
    TokenState,
)
from coordinator.starting import SegmentOutlook, Started
from coordinator.state import RoundState
from coordinator.views import (
    LeadActivity,
    activity_text,
    audit_view,
    member_view,
    model_view,
    role_message,
    role_of,
    round_view,
    run_view,
    started_view,
    token_view,
    waiting_view,
)
from coordinator.wording import lasting, size
from protos.terms import Activity, ActivityKind, Phase
from security.identity import Role
from tests.coordinator.runs_at_hand import ref, started
from tests.coordinator.secure_at_hand import secure_run

TOKEN = TokenRow(
    token_id="0" * 16,
    secret_sha256=b"s" * 32,
    role="site",
    member_id="a",
    modalities=("t1",),
    approval=True,
    created=1.0,
    expires=10.0,
)
MEMBER = MemberRow(
    role="site",
    member_id="a",
    modalities=("t1",),
    identity_public_key=b"k" * 32,
    state=MemberState.ENROLLED,
    software="x 1",
    enrolled=1.0,
    serial="ab",
    certificate_expires=9.0,
    last_seen=3.0,
)
RUN = RunRow(
    run="run", name="n", method="m", created=1.0, ended=None, status="running", configuration_toml="", state=""
)


def the_round() -> RoundState:
    found = started().state.round
    assert found is not None
    return found


@pytest.mark.parametrize("role", list(Role))
def test_roles_have_one_number_each(role: Role) -> None:
    assert role_of(role_message(role)) is role
    assert role_of(0) is None


def test_a_token_is_shown_without_its_secret_and_expires_by_the_clock() -> None:
    assert token_view(TOKEN, 9.0).state == "open"
    assert token_view(TOKEN, 10.0).state == "expired"
    assert b"s" * 32 not in token_view(TOKEN, 9.0).SerializeToString()


@pytest.mark.parametrize(
    ("state", "listed", "shown"),
    [
        (MemberState.ENROLLED, False, "enrolled"),
        (MemberState.ENROLLED, True, "member"),
        (MemberState.REVOKED, True, "revoked"),
    ],
)
def test_a_member_is_what_certificate_and_list_say(state: MemberState, *, listed: bool, shown: str) -> None:
    view = member_view(replace(MEMBER, state=state), listed=listed, activity=None, seen=5.0)
    assert (view.state, view.last_seen) == (shown, 5.0)


def test_who_waits_is_shown_with_its_key() -> None:
    asked = EnrolmentRequest(
        certificate_request_pem=b"", identity_public_key=b"k" * 32, modalities=("t1", "t2"), software="x 2"
    )
    view = waiting_view(replace(TOKEN, state=TokenState.AWAITING, request=asked))
    assert (view.state, view.identity_public_key, list(view.modalities)) == (
        "awaiting approval",
        b"k" * 32,
        ["t1", "t2"],
    )


def test_activities_in_words() -> None:
    assert activity_text(None) == ""
    assert activity_text(Activity(kind=ActivityKind.IDLE)) == "idle"
    assert activity_text(Activity(kind=ActivityKind.UPLOADING, done=1, total=2)) == "uploading 1/2"


def test_a_run_is_shown_with_its_round_and_lead() -> None:
    state = started().state
    activity = Activity(kind=ActivityKind.TRAINING, done=1, total=2)
    view = plain(run_view(RUN, state, lambda _: (activity, 4.0), LeadActivity(activity="idle"), now=5.0))
    assert (view["state"], view["method"], view["sites"]) == ("running", "m", ["a", "b", "c"])
    assert view["round"]["phase"] == "training"
    assert view["round"]["participants"][1] == {
        "site": "b",
        "state": "expected",
        "reason": "",
        "seconds": 0.0,
        "done": 1,
        "total": 2,
        "modalities": ["flair", "t1"],
        "last_seen": 4.0,
    }
    assert changes(view)[:2] == ("run: running", "run round 1/2: training")
    assert heading({**view, "paused": True}).plain == "run (m, plain) paused"
    assert progress(view, view["round"]["began"] + 90, 40).plain.startswith("round 1/2 · training for 1 min 30 s")


def test_a_secure_run_is_shown_with_its_steps_and_closed_segments() -> None:
    scene = secure_run().to(Phase.AGGREGATING)
    scene.open(closed={"modality/t1": "segment modality/t1 has 2 sites"})
    view = plain(run_view(RUN, scene.state, None, None, now=5.0))
    assert (view["aggregation"], view["round"]["phase"]) == ("secure", "server training")
    assert view["round"]["closed"] == {"modality/t1": "segment modality/t1 has 2 sites"}
    assert "run round 1/2: segment modality/t1 stays closed (segment modality/t1 has 2 sites)" in changes(view)


def test_a_run_that_was_started_says_what_it_tolerates() -> None:
    one = SegmentOutlook(segment="common", owners=3, minimum=3, threshold=3, tolerated=0)
    view = plain(started_view(Started(run="r", aggregation="secure", warnings=("mind this",), segments=(one,))))
    assert view == {
        "run": "r",
        "aggregation": "secure",
        "warnings": ["mind this"],
        "segments": [{"segment": "common", "owners": 3, "minimum": 3, "threshold": 3, "tolerated": 0}],
    }


def test_a_round_that_is_over_says_how_long_each_phase_took() -> None:
    state = the_round().enter(Phase.MASKED, 1010.0)
    row = RoundRow(round=state.id, phase=state.phase, began=state.began, ended=1020.0, reason="", detail="")
    view = plain(round_view(state, row, None))
    assert view["ended"] == 1020.0
    assert {"phase": "training", "seconds": 10.0} in view["durations"]


def test_a_model_names_contributors_and_missing() -> None:
    model = ModelRow(
        run="r", round_number=2, model=ref("m"), created=1.0, contributors=("a",), missing=("b",), kept=False
    )
    view = plain(model_view(model))
    assert view["model"] == {"sha256": ref("m").sha256, "size": 4}
    assert (view["contributors"], view["missing"], view["kept"]) == (["a"], ["b"], False)


def test_an_audit_record_is_shown_whole() -> None:
    row = AuditRow(
        sequence=0,
        at=1.5,
        actor="x",
        action="y",
        subject="z",
        outcome="accepted",
        details={"k": "v"},
        previous=bytes(32),
        hash=b"h" * 32,
    )
    view = plain(audit_view(row))
    assert (view["details"], view["previous"], view["hash"]) == ({"k": "v"}, "0" * 64, (b"h" * 32).hex())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3661, "1 h 1 min"), (90_000, "1 d 1 h"), (-5, "0 s")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert lasting(seconds) == words


def test_instants_sizes_and_bars() -> None:
    assert (when(0), when(1_900_000_000)) == ("-", "2030-03-17 17:46:40Z")
    assert (ago(0, 9), ago(4, 9)) == ("never", "5 s ago")
    assert (size(10), size(1536), size(160 << 20)) == ("10 B", "1.5 KiB", "160.0 MiB")
    assert (bar(0, 0), bar(9, 4)[:16]) == ("", "━" * 16)
