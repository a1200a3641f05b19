"""What a site checks of a round before it makes keys (SPEC 9.5): every difference is a refusal."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from fedmepd.aggregation import Quantisation
from fedmepd.fixed_point import FixedPoint
from fedmepd.runspec import make_spec
from protos.terms import DeclineCause, NamedHash, RosterSite, RoundId, SegmentTerms
from security import keys
from security.membership import Member
from site_agent.errors import RefusalError
from site_agent.round_checks import check_round
from site_agent.secagg.records import RoundRecord
from tests.site_agent.secure_cohort import NOW, OWN, ROUND, Cohort, plan_of

ALL = tuple(OWN)
THIRD = RoundId(run="r", round_number=3)


@pytest.fixture(autouse=True)
def _no_disk_is_that_slow(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def cohort(tmp_path):
    return Cohort(tmp_path)


def check(cohort, task, round_id=ROUND, **changes):
    steps = cohort.sites["a"].steps
    return check_round(task, cohort.knowledge("a", round_id, **changes), steps.records, steps.spent)


def refused(cohort, task, round_id=ROUND, clause="SPEC 9.5", **changes):
    with pytest.raises(RefusalError) as caught:
        check(cohort, task, round_id, **changes)
    assert caught.value.cause is DeclineCause.POLICY
    assert caught.value.clause == clause
    assert str(cohort.sites["a"].data) not in str(caught.value), "no path leaves the site"
    return caught.value.problem


def test_a_round_as_the_site_knows_it_is_accepted(cohort):
    task = cohort.advertise()
    assert check(cohort, task).context.hex() == task.context


# -- membership -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 3])
def test_an_older_list_than_the_one_seen_and_a_newer_one_that_is_not_here_are_refused(cohort, version):
    task = cohort.advertise(membership_version=version)
    assert "the newest one here is 2" in refused(cohort, task, listed=cohort.list_of(2))


def test_another_list_of_the_same_version_is_refused(cohort):
    assert "another membership list" in refused(cohort, cohort.advertise(membership_digest="0" * 64))


def test_a_stranger_an_expired_member_and_one_that_is_not_of_the_run_are_refused(cohort):
    roster = cohort.advertise().roster
    stranger = cohort.advertise(roster=(*roster, RosterSite(site="z", modalities=("t1",))), context="0" * 64)
    assert "z is not on the membership list" in refused(cohort, stranger)
    late = refused(cohort, cohort.advertise(), now=NOW + timedelta(days=30))
    assert "lasts from" in late
    spec = make_spec(plan_of(), run_id="r", sites={site: own for site, own in OWN.items() if site != "e"})
    assert "e, which is not of the run" in refused(cohort, cohort.advertise(), spec=spec)


def test_a_roster_without_this_site_is_refused(cohort):
    task = cohort.advertise(roster=cohort.advertise().roster[1:])
    assert "does not hold this site" in refused(cohort, task)


@pytest.mark.parametrize("where", ["roster", "list", "run"])
def test_modality_sets_must_be_the_same_in_roster_list_and_run(cohort, where):
    task, changes = cohort.advertise(), {}
    if where == "roster":
        roster = tuple(replace(one, modalities=("t1",)) if one.site == "b" else one for one in task.roster)
        task = replace(task, roster=roster)
    elif where == "list":
        members = tuple(replace(m, modalities=("t1",)) if m.site == "b" else m for m in cohort.listed.members)
        changes["listed"] = replace(cohort.listed, members=members)
        task = replace(task, membership_digest=changes["listed"].digest)
    else:
        changes["spec"] = make_spec(plan_of(), run_id="r", sites={**OWN, "b": ("t1",)})
    assert "do not agree on the modalities of b" in refused(cohort, task, **changes)


def test_keys_are_those_of_the_list_and_not_of_the_coordinator(cohort):
    forged = keys.public_bytes(keys.make_signing_key())
    members = tuple(
        Member(
            site=m.site,
            identity_key=forged if m.site == "b" else m.identity_key,
            modalities=m.modalities,
            valid_from=m.valid_from,
            valid_until=m.valid_until,
        )
        for m in cohort.listed.members
    )
    listed = replace(cohort.listed, members=members)
    setting = check(cohort, cohort.advertise(membership_digest=listed.digest), listed=listed)
    assert setting.party("b").identity_key == forged


def test_the_consortium_is_that_of_the_pinned_key(cohort):
    assert "context" in refused(cohort, cohort.advertise(), clause="SPEC 9.3", consortium="other")


def test_another_specification_gives_another_context(cohort):
    assert "context" in refused(cohort, cohort.advertise(), clause="SPEC 9.3", spec_sha256="0" * 64)


def test_a_context_that_the_site_does_not_compute_is_refused(cohort):
    assert "context" in refused(cohort, cohort.advertise(context="0" * 64), clause="SPEC 9.3")


# -- layout and broadcast -------------------------------------------------------------------------------------------


def test_another_layout_and_other_segments_are_refused(cohort):
    assert "another layout" in refused(cohort, cohort.advertise(layout_digest="0" * 64))
    segments = cohort.advertise().segments
    longer = (replace(segments[0], values=segments[0].values + 1), *segments[1:])
    for wrong in (longer, segments[::-1], segments[1:], (*segments, SegmentTerms(name="x", values=1, least_open=0))):
        task = cohort.advertise(segments=wrong, context="0" * 64)
        assert "not those of the layout" in refused(cohort, task)


def test_least_open_is_what_the_counts_say_in_the_site_s_own_segments(cohort):
    segments = cohort.advertise().segments
    more = tuple(replace(one, least_open=one.least_open + 1) if one.name == "common" else one for one in segments)
    assert "its counts say 5" in refused(cohort, cohort.advertise(segments=more))
    others = tuple(replace(one, least_open=7) if one.name == "modality/t2" else one for one in segments)
    check(cohort, cohort.advertise(segments=others))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("modality/flair", "trained on another modality/flair"),
        ("common", "trained on another common"),
        ("anchors", "trained on another anchors"),
    ],
)
def test_what_was_downloaded_is_what_the_broadcast_names(cohort, name, match):
    broadcast = tuple(
        replace(ref, sha256="0" * 64) if ref.name == name else ref for ref in cohort.advertise().broadcast
    )
    assert match in refused(cohort, cohort.advertise(broadcast=broadcast))


def test_an_artefact_is_not_left_out_of_the_broadcast_nor_added_to_it(cohort):
    broadcast = cohort.advertise().broadcast
    fewer = tuple(ref for ref in broadcast if ref.name != "anchors")
    assert "another anchors" in refused(cohort, cohort.advertise(broadcast=fewer))
    more = (*broadcast, NamedHash(name="start", sha256="1" * 64))
    assert "names start, which this site was not given" in refused(cohort, cohort.advertise(broadcast=more))
    assert "not those of the layout" in refused(cohort, cohort.advertise(broadcast=broadcast[1:]))


def test_a_segment_that_was_not_downloaded_is_no_basis_of_a_round(cohort):
    result = cohort.knowledge("a").result
    inputs = {name: sha256 for name, sha256 in result.inputs.items() if name != "common"}
    assert "did not download common" in refused(cohort, cohort.advertise(), result=replace(result, inputs=inputs))


# -- what came before -----------------------------------------------------------------------------------------------


def test_the_first_round_follows_on_all_sites_of_the_run(cohort):
    assert "all sites of the run" in refused(cohort, cohort.advertise(previous=ALL[1:]))


RECORD = RoundRecord(context="0" * 64, roster=ALL, previous=ALL)


@pytest.mark.parametrize(
    ("record", "previous", "accepted"),
    [
        (None, ALL[2:], True),
        (RECORD, ALL[2:], True),
        (replace(RECORD, survivors=ALL[:4]), ALL[:4], True),
        (replace(RECORD, survivors=ALL[:4]), ALL, True),
        (replace(RECORD, survivors=ALL[:4]), ALL[:3], False),
        (replace(RECORD, sharers=ALL[:4], masked=("a" * 64, 4)), ALL[:3], True),
        (replace(RECORD, sharers=ALL[:4], previous=ALL[:3], masked=("a" * 64, 4)), ALL, False),
    ],
)
def test_a_later_round_follows_on_the_sites_that_this_one_knows_of(cohort, record, previous, accepted):
    if record is not None:
        cohort.sites["a"].steps.records.write(RoundId(run="r", round_number=2), record)
    task = cohort.advertise(THIRD, previous=previous)
    if accepted:
        check(cohort, task, THIRD)
    else:
        assert "not those that this site knows of" in refused(cohort, task, THIRD)


def test_the_last_attempt_at_the_round_before_counts(cohort):
    records = cohort.sites["a"].steps.records
    records.write(RoundId(run="r", round_number=2), replace(RECORD, survivors=ALL[:3]))
    records.write(RoundId(run="r", round_number=2, attempt=2), replace(RECORD, survivors=ALL[:4]))
    check(cohort, cohort.advertise(THIRD, previous=ALL[:4]), THIRD)
    refused(cohort, cohort.advertise(THIRD, previous=ALL[:3]), THIRD)


def test_an_attempt_below_one_that_was_seen_is_refused(cohort):
    second = replace(ROUND, attempt=2)
    cohort.sites["a"].steps.records.write(second, RECORD)
    assert "attempt 1 comes after attempt 2" in refused(cohort, cohort.advertise())


def test_a_round_in_which_or_before_which_an_update_was_spent_is_refused(cohort):
    cohort.sites["a"].steps.spent.mark(THIRD, "f" * 64)
    for number in (2, 3):
        later = RoundId(run="r", round_number=number, attempt=2)
        problem = refused(cohort, cohort.advertise(later), later, clause="SPEC 11.5")
        assert "later rounds only" in problem
    fourth = RoundId(run="r", round_number=4)
    check(cohort, cohort.advertise(fourth), fourth)


def test_a_sum_that_does_not_fit_into_32_bits_is_refused(cohort, monkeypatch):
    form = FixedPoint(clip=1.0, scale=float(1 << 29))
    formats = Quantisation(delta=form, weighted=form, weight=form, count=form, scalar=form)
    monkeypatch.setattr(type(cohort.spec), "formats", formats)
    assert "does not fit into 32 bits" in refused(cohort, cohort.advertise())
