"""What a privacy officer is told: never more than holds, and `unbounded` where nothing does."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import timedelta
from pathlib import Path

import pytest

from security.errors import PrivacyError
from security.privacy import exports, gaussian, report_chart, report_rows
from security.privacy.accounting import strength
from security.privacy.report import Finding, OwnerReport, Report
from security.privacy.report_audit import Bound, read_audit
from security.privacy.report_making import Checks, as_data, make_report
from security.privacy.report_page import render
from security.privacy.report_reading import owner_report
from security.privacy.terms import Budget
from tests.security.privacy.report_scene import (
    ANCHORS_SPENT,
    BEGAN,
    SERVER_BUDGET,
    Clock,
    anchors,
    charge,
    make_ledgers,
    opened,
    training,
)

MADE = BEGAN + timedelta(days=7)
BOUND = {
    "noise": 1.5,
    "clip": 1.0,
    "releases": 3,
    "patients": 8,
    "trials": 5000,
    "delta": 1e-5,
    "confidence": 0.95,
    "epsilon_claimed": 5.174,
    "epsilon_lower": 2.189,
    "epsilon_lower_gaussian": 4.617,
    "strength_claimed": 1.154,
    "strength_lower": 1.046,
    "broken": False,
}


def account(events, delta):
    """An exact accountant for releases that everybody takes part in, which is quick to load."""
    return gaussian.epsilon_of(strength(events), delta)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_ledgers(tmp_path_factory.mktemp("ledgers"))


def report_of(*paths: Path, checks: Checks | None = None, bound: Bound | None = None) -> Report:
    return make_report(paths, checks or Checks(), made=MADE, software="test 1", bound=bound)


def owner_of(path: Path) -> OwnerReport:
    return report_of(path).owners[0]


def played(folder: Path, *steps) -> OwnerReport:
    """The report of a coordinator whose ledger a test writes; each step gets the ledger and its clock."""
    clock = Clock()
    with opened(folder, "coordinator", clock) as ledger:
        for step in steps:
            clock.move(hours=1)
            step(ledger, clock)
        return owner_report(list(ledger.entries()), Finding(source="ledger.jsonl"), account)


def set_budget(epsilon: float = 8.0, delta: float = 1e-5):
    return lambda ledger, _: ledger.set_budget(Budget(epsilon=epsilon, delta=delta))


def debit(claim, spent, *, released=True):
    return lambda ledger, _: charge(ledger, claim, spent, released=released)


# -- totals ---------------------------------------------------------------------------------------------------------


def test_a_conditional_figure_stands_beside_unbounded_and_never_in_its_place(paths) -> None:
    server = owner_of(paths[0])
    assert report_rows.total(server) == "unbounded"
    assert report_rows.spent(server) == "5.18 (conditional)"
    assert (server.left, report_rows.downward(server.left)) == (SERVER_BUDGET.epsilon - ANCHORS_SPENT[-1], "2.82")
    assert [reason.split(":")[0] for reason in server.reasons] == [
        "run spring-2030, training without a guarantee",
        "anchors",
    ]
    assert "the run trains the server without noise" in server.reasons[0]


def test_an_unconditional_total_is_a_figure_rounded_up(paths) -> None:
    site = owner_of(paths[1])
    assert (site.unbounded, site.spent, report_rows.total(site)) == (False, 2.8051, "2.81")
    assert report_rows.downward(site.left) == "1.19"


def test_a_single_conditional_release_makes_the_total_unbounded(tmp_path) -> None:
    made = played(
        tmp_path, set_budget(), debit(anchors(0, conditional=False), 2.76), debit(anchors(1, conditional=True), 4.09)
    )
    assert made.unbounded
    assert len(made.reasons) == 1
    bounded = played(tmp_path / "other", set_budget(), debit(anchors(0, conditional=False), 2.76))
    assert report_rows.total(bounded) == "2.76"


def test_without_a_budget_nothing_is_known_and_the_total_is_unbounded(tmp_path) -> None:
    made = played(tmp_path)
    assert (made.budget, made.left, made.spent, report_rows.total(made)) == (None, None, 0.0, "unbounded")
    assert "no budget is in force" in made.reasons[0]
    assert report_rows.summary(Report(made=MADE, software="", consortium="", owners=(made,))).rows[0][4] == "-"


def test_a_budget_that_came_late_and_a_changed_delta_are_said(tmp_path) -> None:
    made = played(
        tmp_path, set_budget(), debit(anchors(0, conditional=False), 2.76), set_budget(8.0, 1e-6), set_budget(1.0, 1e-6)
    )
    assert made.budget_since == BEGAN + timedelta(hours=1)
    assert (made.stale, made.left) == (True, 0.0)
    assert report_rows.total(made) == report_rows.upward(account([anchors(0).event], 1e-6)) == "3.10"
    assert [change.new.epsilon for change in made.changes] == [8.0, 8.0, 1.0]
    said = " ".join(report_rows.remarks(Report(made=MADE, software="", consortium="", owners=(made,)), made))
    assert "No budget was in force until 2030-03-04 09:00" in said
    assert (
        "Epsilon 2.76 was stated at delta 1e-5; the budget's was changed afterwards, and at it epsilon is 3.10" in said
    )


def test_without_an_accountant_nothing_is_known_at_a_delta_that_was_changed(tmp_path) -> None:
    clock = Clock()
    with opened(tmp_path, "coordinator", clock) as ledger:
        for step in (set_budget(), debit(anchors(0, conditional=False), 2.76), set_budget(8.0, 1e-6)):
            step(ledger, clock)
        made = owner_report(ledger.entries(), Finding(source="ledger.jsonl"))
    assert (made.figure, made.left, report_rows.total(made), report_rows.spent(made)) == (
        None,
        None,
        "not known",
        "not known",
    )
    report = Report(made=MADE, software="", consortium="", owners=(made,))
    assert report_rows.summary(report).rows[0][1:5] == (
        "not known",
        "not known",
        "epsilon 8 at delta 1e-6",
        "not known",
    )
    assert "and at it epsilon is not known" in render(report)


def test_a_time_without_a_budget_after_the_first_makes_the_total_unbounded(tmp_path) -> None:
    withdrawn = lambda ledger, _: ledger.set_budget(None)  # noqa: E731
    made = played(tmp_path, set_budget(), debit(anchors(0, conditional=False), 2.76), withdrawn, set_budget())
    hour = timedelta(hours=1)
    assert made.gaps == ((BEGAN + 3 * hour, BEGAN + 4 * hour),)
    assert made.reasons == (
        "no budget was in force from 2030-03-04 11:00 to 2030-03-04 12:00, and what was used then need not be recorded",
    )
    assert (report_rows.total(made), report_rows.spent(made)) == ("unbounded", "2.76")
    still = played(tmp_path / "other", set_budget(), withdrawn, set_budget(4.0), withdrawn)
    assert [reason[:47] for reason in still.reasons] == [
        "no budget was in force from 2030-03-04 10:00 to",
        "no budget is in force since 2030-03-04 12:00, a",
    ]


@pytest.mark.parametrize(
    ("value", "up", "down"),
    [(2.801, "2.81", "2.80"), (3.2, "3.20", "3.20"), (0.0, "0.00", "0.00"), (0.001, "0.01", "0.00")],
)
def test_figures_are_rounded_to_the_side_of_caution(value, up, down) -> None:
    assert (report_rows.upward(value), report_rows.downward(value)) == (up, down)


def test_what_no_accountant_bounds_is_called_infinite() -> None:
    assert report_rows.upward(float("inf")) == "infinite"


# -- releases -------------------------------------------------------------------------------------------------------


def test_equal_debits_in_consecutive_rounds_are_one_row_that_counts_what_left(paths) -> None:
    (series,) = owner_of(paths[1]).releases
    assert (series.first_round, series.last_round, series.debits, len(series.hashes)) == (1, 8, 8, 7)
    assert series.recipients == "the coordinator, in a sum over 4 sites at least"
    table = report_rows.releases(owner_of(paths[1]))
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["rounds"], row["steps"], row["spent after"]) == ("1 to 8", "8 x 10", "2.81")
    assert row["released"].startswith("7 of 8, last ")


def test_a_gap_other_noise_and_another_run_begin_a_row(tmp_path) -> None:
    other = dataclasses.replace(training(3), noise=2.0)
    steps = [training(1), training(2), other, training(5), training(6, run="autumn")]
    made = played(tmp_path, set_budget(), *(debit(claim, 1.0 + index / 10) for index, claim in enumerate(steps)))
    assert [(one.run, one.first_round, one.last_round) for one in made.releases] == [
        ("spring-2030", 1, 2),
        ("spring-2030", 3, 3),
        ("spring-2030", 5, 5),
        ("autumn", 6, 6),
    ]


def test_mechanisms_are_told_apart_and_rows_survive_what_comes_between(tmp_path) -> None:
    made = played(
        tmp_path,
        set_budget(20.0),
        debit(training(1), 1.0),
        debit(anchors(1), 3.5),
        debit(training(2), 4.0, released=False),
    )
    assert [(one.mechanism, one.debits) for one in made.releases] == [("training", 2), ("anchors", 1)]
    assert {use.mechanism: (use.debits, use.released, use.steps) for use in made.uses} == {
        "anchors": (1, 1, 1),
        "training": (2, 1, 20),
    }
    assert made.unused == 1
    alone = next(use.alone for use in made.uses if use.mechanism == "anchors")
    assert alone == pytest.approx(2.7534, abs=1e-3)


# -- verification ---------------------------------------------------------------------------------------------------


def test_what_others_noted_and_what_was_recomputed_stands_in_the_report(paths) -> None:
    checks = Checks(accountant=account, accountant_name="closed form")
    made = report_of(paths[0], checks=checks)
    assert made.owners[0].finding.recomputed == pytest.approx(5.1748, abs=1e-3)
    both = report_of(*paths)
    assert [seen.by.rsplit("/", 1)[1] for owner in both.owners for seen in owner.finding.seen] == [
        "hospital-a",
        "coordinator",
    ]
    heads = report_rows.heads(both)
    assert heads.rows[0][-1] == "site hospital-a (entry 15)"
    assert heads.rows[0][3] == both.owners[0].head
    assert report_rows.heads(made).rows[0][-1] == "nobody"


def test_an_accountant_is_asked_once_for_the_same_history(paths) -> None:
    asked = []

    def counting(events, delta):
        asked.append(sum(event.steps for event in events))
        return account(events, delta)

    made = report_of(paths[0], checks=Checks(accountant=counting))
    assert asked == [3]
    assert made.owners[0].uses[0].alone == made.owners[0].finding.recomputed


def test_a_ledger_that_is_not_believed_gives_no_figure_and_nothing_to_sign(paths, tmp_path) -> None:
    lines = paths[1].read_bytes().splitlines(keepends=True)
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(lines[:-4]))
    made = report_of(paths[0], cut)
    assert (made.owners, made.signable) == ((), False)
    assert f"{cut}: " in made.failure
    assert f"lacks the entry {len(lines) - 4}" in made.failure
    page = render(made)
    assert "not to be signed" in page
    assert "Signature" not in page
    assert "5.18" not in page
    assert as_data(made)["failure"] == made.failure


def test_a_file_that_changes_between_two_readings_is_not_reported(paths, tmp_path, monkeypatch) -> None:
    honest, shorter = exports.read, tmp_path / "shorter.jsonl"
    shorter.write_bytes(b"".join(paths[1].read_bytes().splitlines(keepends=True)[:-1]))
    monkeypatch.setattr(exports, "read", lambda _: honest(shorter))
    assert "changed while it was read" in report_of(paths[1]).failure


def test_a_name_stands_for_a_file_whose_own_says_nothing(paths, tmp_path) -> None:
    empty = tmp_path / "x.jsonl"
    empty.write_bytes(b"")
    names = {empty: "the coordinator's ledger", paths[0]: "the coordinator's ledger"}
    failed = make_report([empty], Checks(), made=MADE, software="", names=names)
    assert failed.failure.startswith("the coordinator's ledger: it is empty")
    whole = make_report([paths[0]], Checks(), made=MADE, software="", names=names)
    assert whole.owners[0].finding.source == "the coordinator's ledger"


# -- the attack on the mechanism ------------------------------------------------------------------------------------


def test_without_an_attack_the_command_to_run_is_that_of_the_least_noise(tmp_path, paths) -> None:
    assert report_rows.audit_command(report_of(*paths)).startswith(
        "fedmepd privacy audit --noise 1.5 --clip 1 --releases 3 --json"
    )
    louder = dataclasses.replace(anchors(1), noise=4.0)
    made = played(tmp_path, set_budget(), debit(louder, 1.0), debit(anchors(2), 3.0))
    report = Report(made=MADE, software="", consortium="", owners=(made,))
    assert "--noise 1.5 --clip 1 --releases 1" in report_rows.audit_command(report)
    assert report_rows.audit_command(report_of(paths[1])) == ""
    assert "no anchors to attack" in report_rows.attack(report_of(paths[1])).empty


def test_an_attack_that_does_better_than_the_claim_forbids_to_sign(paths) -> None:
    fine = report_of(*paths, bound=read_audit(json.dumps(BOUND).encode()))
    assert fine.signable
    assert "did no better than the claim allows" in render(fine)
    for change in ({"epsilon_lower": 5.2}, {"strength_lower": 1.2}):
        broken = report_of(*paths, bound=read_audit(json.dumps(BOUND | change).encode()))  # whatever `broken` says
        assert not broken.signable
        page = render(broken)
        assert "the mechanism is broken" in page
        assert "Not to be signed" in page
        assert "BROKEN" in report_rows.attack(broken).rows[-1][1]


def test_a_lower_bound_is_rounded_down_and_of_other_noise_it_is_said(paths) -> None:
    made = report_of(*paths, bound=read_audit(json.dumps(BOUND).encode()))
    assert [row[1] for row in report_rows.attack(made).rows] == ["2.18", "4.61", "5.18", "consistent"]
    assert "not those of the releases above" not in render(made)
    other = report_of(*paths, bound=read_audit(json.dumps(BOUND | {"noise": 3.0}).encode()))
    assert "not those of the releases above" in render(other)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        json.dumps({name: value for name, value in BOUND.items() if name != "delta"}).encode(),
        json.dumps(BOUND | {"epsilon_lower": "1"}).encode(),
        json.dumps(BOUND | {"epsilon_lower": float("nan")}).encode(),
        json.dumps(BOUND | {"trials": 1.5}).encode(),
        json.dumps(BOUND | {"noise": True}).encode(),
        json.dumps(BOUND | {"noise": -1}).encode(),
        json.dumps(BOUND | {"more": "x" * 70_000}).encode(),
    ],
    ids=["empty", "list", "bytes", "deep", "missing", "text", "nan", "broken count", "truth", "negative", "large"],
)
def test_what_is_no_result_of_an_audit_is_refused(document) -> None:
    with pytest.raises(PrivacyError, match="fedmepd privacy audit --json"):
        read_audit(document)


# -- the page -------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else_and_prints_on_a4(paths) -> None:
    page = render(report_of(*paths, bound=read_audit(json.dumps(BOUND).encode())))
    assert "default-src 'none'" in page
    assert not re.findall(r"<script|<link|<img|<iframe|@import|url\((?!#)|\bon\w+=", page)
    assert set(re.findall(r"https?://[^\"<]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "size: A4" in page
    assert "counter(page)" in page
    for field in ("Name", "Role", "Place", "Date", "Signature"):
        assert f"<div>{field}</div>" in page


def test_the_page_says_relation_assumptions_recipients_and_what_one_export_does_not_show(paths) -> None:
    page = " ".join(render(report_of(*paths)).split())
    for words in (
        "one holds one patient more than the other",
        "One training patient more or less.",
        "while who validates and who tests is held fixed",
        "How many patients train is taken to be public",
        "not quite whether a patient is in the hospital",
        "clipped to the L2 norm C",
        "drawn independently with the probability rate",
        "sites hospital-a, hospital-b, hospital-c, hospital-d",
        "the coordinator, in a sum over 4 sites at least",
        "Why the total is unbounded",
        "One export alone does not show",
        "organisational promise",
        "not compared with a membership list",
    ):
        assert words in page, words
    assert "organisational promise" not in render(report_of(paths[1]))


def test_what_stands_in_a_ledger_is_escaped(tmp_path) -> None:
    evil = "<script>alert('x')</script>"
    made = played(
        tmp_path,
        set_budget(),
        lambda ledger, _: ledger.unaccounted(evil, "training", evil),
        debit(dataclasses.replace(anchors(0), recipients=evil, run=evil), 2.76),
    )
    page = render(Report(made=MADE, software=evil, consortium=evil, owners=(made,)))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5


def test_a_report_of_one_owner_without_any_release_is_a_page_too(tmp_path) -> None:
    made = played(tmp_path, set_budget())
    page = render(Report(made=MADE, software="test", consortium="brain.example", owners=(made,)))
    assert "Nothing was released under this ledger." in page
    assert "There are no anchors to attack" in page


def test_a_report_is_plain_data_with_the_words_that_count(paths) -> None:
    found = json.loads(json.dumps(as_data(report_of(*paths)), allow_nan=False))
    server, site = found["owners"]
    assert (server["total"], server["spent"], len(server["reasons"])) == ("unbounded", 5.1749, 2)
    assert site["releases"][0]["hashes"][0] == owner_of(paths[1]).releases[0].hashes[0]
    assert found["signable"] is True


# -- the drawing ----------------------------------------------------------------------------------------------------


def points(written: str) -> list[tuple[float, float]]:
    return [tuple(float(value) for value in pair.split(",")) for pair in written.split()]


def test_the_line_rises_with_what_was_spent_under_the_budget_of_the_time(tmp_path) -> None:
    made = report_chart.chart(
        played(
            tmp_path,
            set_budget(4.0),
            debit(anchors(0), 2.76),
            lambda ledger, _: ledger.unaccounted("r", "training", "why"),
            lambda ledger, _: ledger.set_budget(None),
            set_budget(6.0),
            debit(anchors(1), 4.09),
        )
    )
    line = points(made.line)
    assert [y for _, y in line] == sorted((y for _, y in line), reverse=True)
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    lower, upper = (points(one) for one in made.budget)
    assert lower[-1][0] < upper[0][0]
    assert lower[0][1] > upper[0][1]
    assert len(made.uses) == 1


def test_many_debits_are_drawn_with_few_points_and_end_where_they_end(tmp_path) -> None:
    owner = played(tmp_path, set_budget(), debit(training(1), 1.0))
    last = owner.points[-1]
    many = tuple(
        dataclasses.replace(last, at=last.at + timedelta(minutes=index), spent=index / 1000) for index in range(5000)
    )
    drawn = report_chart.chart(dataclasses.replace(owner, points=many, newest=many[-1].at, spent=many[-1].spent))
    whole = report_chart.chart(dataclasses.replace(owner, points=many[-1:], newest=many[-1].at, spent=many[-1].spent))
    assert len(points(drawn.line)) < 1000
    assert points(drawn.line)[-1] == points(whole.line)[-1]


def test_nothing_is_drawn_where_there_is_nothing_to_draw(tmp_path) -> None:
    assert report_chart.chart(played(tmp_path)) is None
