"""What the site agrees to, and what it lets out; whom the signed list must hold."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from fedmepd.aggregation import quantisation, vector_length
from fedmepd.layout_json import layout_digest
from protos.context import round_context
from protos.terms import ArtefactRef, BroadcastSegment, DeclineCause, RoundId, Submit, Train
from security import keys
from security.errors import MembershipError
from security.membership import Member, MembershipList, sign
from security.membership_file import to_json
from site_agent import policy
from site_agent.errors import NotAMemberError, RefusalError
from site_agent.membership import Standing
from site_agent.updates import CheckedUpdate
from tests.federation.hospital import small_layout
from tests.site_agent.agent_at_hand import config_of

LAYOUT, OWN = small_layout(), ("flair", "t1")
ROUND = RoundId(run="r", round_number=1)
SPEC = ArtefactRef(sha256="a" * 64, size=10)
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def broadcast(*names):
    ref = ArtefactRef(sha256="b" * 64, size=10)
    segments = tuple(BroadcastSegment(name=name, artefact=ref, owners=1) for name in names)
    return Train(segments=segments, anchors=None, start=None, samples=1.0)


def config(tmp_path, **limits):
    return config_of(tmp_path, "localhost:1", "localhost:2", OWN, **limits)


@pytest.mark.parametrize("layout", [None, LAYOUT])
def test_only_own_segments_and_the_common_one_are_fetched(tmp_path, layout):
    policy.check_train(broadcast("modality/flair", "modality/t1", "common"), OWN, layout, config(tmp_path))
    with pytest.raises(RefusalError, match="segments") as caught:
        policy.check_train(broadcast("modality/flair", "modality/t2", "common"), OWN, layout, config(tmp_path))
    assert caught.value.cause is DeclineCause.POLICY


def test_a_missing_segment_and_a_huge_artefact_are_refused(tmp_path):
    with pytest.raises(RefusalError, match="not those of the layout"):
        policy.check_train(broadcast("modality/flair", "common"), OWN, LAYOUT, config(tmp_path))
    with pytest.raises(RefusalError, match="max_download_bytes"):
        policy.check_train(broadcast("common"), OWN, None, config(tmp_path, max_download_bytes=5))


def contribution(tmp_path, words):
    path = tmp_path / "c.bin"
    path.write_bytes(np.zeros(words, "<u4").tobytes())
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def update_at(path):
    return CheckedUpdate(path, LAYOUT.for_member(OWN), quantisation(sites=2))


WORDS = sum(vector_length(segment) for segment in LAYOUT.for_member(OWN))


def test_a_contribution_is_measured_and_hashed_before_it_may_leave(tmp_path):
    path, sha256 = contribution(tmp_path, WORDS)
    found = policy.manifest_of(update_at(path), sha256=sha256, most=1 << 20)
    assert [part.name for part in found.segments] == ["modality/flair", "modality/t1", "common"]
    assert found.vector == ArtefactRef(sha256=sha256, size=4 * WORDS)


@pytest.mark.parametrize(
    ("words", "sha256", "most", "cause", "match"),
    [
        (WORDS + 1, None, 1 << 20, DeclineCause.UPDATE, "the layout wants"),
        (WORDS, "0" * 64, 1 << 20, DeclineCause.UPDATE, "not what the trainer wrote"),
        (WORDS, None, 8, DeclineCause.POLICY, "max_update_bytes"),
    ],
)
def test_what_must_not_leave_is_refused(tmp_path, words, sha256, most, cause, match):
    path, right = contribution(tmp_path, words)
    with pytest.raises(RefusalError, match=match) as caught:
        policy.manifest_of(update_at(path), sha256=sha256 or right, most=most)
    assert caught.value.cause is cause
    assert str(tmp_path) not in str(caught.value), "no path leaves the site"


def test_values_out_of_range_are_refused_in_the_same_reading(tmp_path):
    path, _ = contribution(tmp_path, WORDS)
    words = np.fromfile(path, "<i4")
    words[-1] = 2**31 - 1
    words.tofile(path)
    with pytest.raises(RefusalError, match="out of range in segment common"):
        policy.manifest_of(update_at(path), sha256=hashlib.sha256(words.tobytes()).hexdigest(), most=1 << 20)


def test_the_context_must_be_the_one_that_the_site_computes():
    roster = ("a", "b")
    context = round_context(ROUND, spec=SPEC.sha256, layout=layout_digest(LAYOUT), roster=roster)
    task = Submit(roster=roster, context=context)
    policy.check_submit(ROUND, SPEC, task, site="a", layout=LAYOUT)
    with pytest.raises(RefusalError, match="roster"):
        policy.check_submit(ROUND, SPEC, task, site="c", layout=LAYOUT)
    for wrong in (replace(task, roster=("a", "c")), replace(task, context="0" * 64)):
        with pytest.raises(RefusalError, match="context"):
            policy.check_submit(ROUND, SPEC, wrong, site="a", layout=LAYOUT)
    with pytest.raises(RefusalError, match="context"):
        policy.check_submit(ROUND, SPEC, task, site="a", layout=None)


@pytest.mark.parametrize(
    ("run", "sites", "match"),
    [
        ("other", {"a": OWN}, "is of run"),
        ("r", {"b": OWN}, "does not name"),
        ("r", {"a": ("flair",)}, "expects flair"),
    ],
)
def test_a_run_must_expect_what_the_hospital_configured(run, sites, match):
    with pytest.raises(RefusalError, match=match):
        policy.check_run(SimpleNamespace(run_id=run, sites=sites), "r", "a", OWN)


class List:
    """A membership key, a site and lists of it."""

    def __init__(self):
        self.key, self.identity_key = keys.make_signing_key(), keys.make_signing_key()
        trust = SimpleNamespace(membership_key=keys.public_bytes(self.key))
        identity = SimpleNamespace(id="a", consortium="test")
        self.loaded = SimpleNamespace(trust=trust, identity=identity, identity_key=self.identity_key)

    def signed(self, version=1, own=OWN, identity_key=None, key=None):
        member = Member(
            site="a",
            identity_key=keys.public_bytes(identity_key or self.identity_key),
            modalities=tuple(sorted(own)),
            valid_from=NOW,
            valid_until=NOW + timedelta(days=9),
        )
        listed = MembershipList(consortium="test", version=version, issued_at=NOW, members=(member,))
        return to_json(sign(listed, key or self.key))

    def check(self, standing, unverified, now=NOW):
        return standing.check(unverified, loaded=self.loaded, own=OWN, now=now)


def test_the_list_must_hold_the_site_as_it_is(tmp_path):
    lists, standing = List(), Standing(tmp_path / "membership.json")
    with pytest.raises(NotAMemberError, match="no signed membership list"):
        lists.check(standing, None)
    with pytest.raises(NotAMemberError, match="another identity key"):
        lists.check(standing, lists.signed(1, identity_key=keys.make_signing_key()))
    with pytest.raises(NotAMemberError, match=r"cohort\.modalities"):
        lists.check(standing, lists.signed(2, own=("t2",)))
    assert lists.check(standing, lists.signed(3)).version == 3
    with pytest.raises(NotAMemberError, match="lasts from"):
        lists.check(standing, lists.signed(3), now=NOW + timedelta(days=10))


def test_an_older_or_forged_list_is_not_believed_after_a_restart_either(tmp_path):
    lists, path = List(), tmp_path / "membership.json"
    lists.check(Standing(path), lists.signed(5))
    with pytest.raises(MembershipError, match="version 4"):
        lists.check(Standing(path), lists.signed(4))
    with pytest.raises(MembershipError, match="not signed"):
        lists.check(Standing(path), lists.signed(6, key=keys.make_signing_key()))
    with pytest.raises(MembershipError, match="two different"):
        lists.check(Standing(path), lists.signed(5, own=("t2",)))
