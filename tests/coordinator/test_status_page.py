"""What the status page says, without a network: every state of a run, hostile names, pages of rounds, words."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from coordinator.budgets import Spending
from coordinator.errors import NotFoundError
from coordinator.state import RunStatus
from coordinator.status_page.known import Known, window
from coordinator.status_page.model import page_of
from coordinator.status_page.pages import Pages
from coordinator.status_page.reader import Reader
from coordinator.status_page.words import moment, names
from coordinator.store import open_store
from coordinator.wording import lasting, size
from protos.terms import Phase
from tests.coordinator import status_at_hand as hand
from tests.coordinator.served import PlayedRun

PAGES = Pages()
VOID = {"meta", "link", "br"}
ALONE = VOID | {"rect", "line"}


class Outline(HTMLParser):
    """Checks that what is opened is closed, and keeps texts and headers."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALONE
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.attributes if name == tag]


def shown(known: Known) -> str:
    return PAGES.status(page_of(known), viewer="auditor eve", session=True, refresh=True).decode()


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    parser.close()
    assert not parser.open
    return parser


def test_the_page_says_what_goes_on() -> None:
    text = shown(hand.known(refusal=hand.refusal("it would come to epsilon 9.1")))
    for said in (
        "<title>running: run glioma-2026</title>",
        "<b>6</b> of 40",
        "Round 7",
        "said nothing for 120 s",
        "0.871",
        "of 8 at δ 1e-05",
        "it would come to epsilon 9.1",
        "fedmepd-agent 0.1.0",
        hand.ref("model-6").sha256[:12],
        "Missing from the last sum: hospital-08.",
        'content="10"',
        "you are auditor eve",
    ):
        assert said in text


def test_the_page_is_accessible_and_needs_nothing_from_elsewhere() -> None:
    found = outline(shown(hand.known()))
    tags = [tag for tag, _ in found.attributes]
    assert [tags.count(name) for name in ("header", "main", "footer", "h1")] == [1, 1, 1, 1]
    assert not {"script", "img", "iframe", "style", "object"} & set(tags)
    assert all(attributes.get("scope") in {"col", "row"} for attributes in found.of("th"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in found.of("svg"))
    assert found.of("html")[0]["lang"] == "en"
    for _, attributes in found.attributes:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("href", "src", "action"):
            assert re.match(r"^[/#]", attributes.get(name) or "/")


@pytest.mark.parametrize("status", RunStatus)
@pytest.mark.parametrize("phase", Phase)
def test_every_state_of_a_run_can_be_shown(status: RunStatus, phase: Phase) -> None:
    state = hand.run_state(hand.round_in(phase), status=status, reason="the operator wished so")
    text = shown(hand.known(state))
    outline(text)
    assert f"<title>{status.value}: run glioma-2026</title>" in text
    assert ('content="60"' in text) is status.terminal


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_the_bar_of_phases_is_that_of_the_run(aggregation: str) -> None:
    state = hand.run_state()
    state = replace(state, policy=state.policy.model_copy(update={"aggregation": aggregation}))
    page = page_of(hand.known(state))
    assert page.now is not None
    assert len(page.now.steps) == (10 if aggregation == "secure" else 6)
    assert [step.state for step in page.now.steps[:3]] == ["done", "now", "ahead"]
    assert ("summed in clear" in shown(hand.known(state))) is (aggregation == "plain")


def test_a_failed_round_says_where_it_failed() -> None:
    page = page_of(hand.known(hand.run_state(hand.round_in(Phase.FAILED))))
    assert page.now is not None
    assert [step.name for step in page.now.steps if step.state == "failed"] == ["publish"]
    assert page.now.reason.startswith("too few sites")


def test_a_paused_run_and_one_that_prepares_its_first_model() -> None:
    assert page_of(hand.known(hand.run_state(paused=True))).title == "paused: run glioma-2026"
    first = replace(hand.run_state(), round=None, published=None, previous=(), status=RunStatus.STARTING)
    text = shown(hand.known(first))
    outline(text)
    assert "<b>0</b> of 40" in text
    assert 'id="round"' not in text


def test_without_a_run_the_page_says_how_one_begins() -> None:
    bare = Known(now=hand.NOW, consortium="brain.example", software="fedmepd 0.1.0")
    text = shown(bare)
    outline(text)
    assert "<title>brain.example: no run</title>" in text
    assert "fedmepd-admin runs start" in text
    assert "No site has enrolled yet." in text


def test_what_others_wrote_is_text_and_never_markup() -> None:
    state = hand.run_state(reason=hand.HOSTILE, suspended={"hospital-01": hand.HOSTILE})
    assert state.round is not None
    worst = replace(state.round.participants[0], reason=hand.HOSTILE)
    state = replace(state, round=replace(state.round.with_site(worst), closed={hand.HOSTILE: hand.HOSTILE}))
    known = hand.known(state, refusal=hand.refusal(hand.HOSTILE), stopped=hand.HOSTILE)
    assert known.run is not None
    rows = tuple(replace(row, reason=hand.HOSTILE) for row in known.run.attempts)
    run = replace(known.run, attempts=rows, row=replace(known.run.row, method=hand.HOSTILE))
    people = tuple(replace(row, software=hand.HOSTILE, modalities=(hand.HOSTILE,)) for row in known.members)
    text = PAGES.status(
        page_of(replace(known, run=run, members=people)), viewer=hand.HOSTILE, session=False, refresh=False
    ).decode()
    assert "script" not in {tag for tag, _ in outline(text).attributes}
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 20
    assert "http-equiv" not in text


def test_scores_of_a_private_run_are_left_out() -> None:
    state = hand.run_state()
    assert state.published is not None
    empty = replace(state.published, scores=type(state.published.scores)())
    assert 'id="scores"' not in shown(hand.known(replace(state, published=empty)))


def test_a_ledger_that_never_held_anything_is_not_shown() -> None:
    unused = Spending(budget=None, spent=0.0, unbounded=False, debits={}, releases={}, used=False, entries=1)
    assert page_of(hand.known(spending=unused)).budget is None
    assert page_of(hand.known(spending=None)).budget is None
    assert "No budget is in force" in shown(hand.known(spending=replace(unused, used=True)))
    assert "unbounded" in shown(hand.known(spending=replace(unused, used=True, unbounded=True)))


def test_pages_of_rounds_cover_each_round_once() -> None:
    assert window(1, 0) == window(9, 0)
    pages = [window(page, 47) for page in (1, 2, 3)]
    assert [(one.first, one.last, one.pages) for one in pages] == [(28, 47, 3), (8, 27, 3), (1, 7, 3)]
    assert window(99, 47) == pages[2]
    assert window(-3, 47) == pages[0]


def test_words() -> None:
    spans = [lasting(value) for value in (-1, 5, 61, 3700, 90_000)]
    assert spans == ["0 s", "5 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]
    assert [size(value) for value in (9, 2048, 3 << 20)] == ["9 B", "2.0 KiB", "3.0 MiB"]
    assert names(("a", "b", "c"), 2) == "a, b and 1 more"
    assert moment(None, 1.0) is None
    at = moment(1000.0, 1060.0)
    assert at is not None
    assert (at.utc, at.relative) == ("1970-01-01 00:16 UTC", "1 min 0 s ago")
    assert [moment(1000.0, now).relative for now in (1000.0, 940.0)] == ["now", "in 1 min 0 s"]  # type: ignore[union-attr]


class Roll:
    """A register of nobody."""

    consortium = "brain.example"

    def __init__(self) -> None:
        self.now = hand.NOW
        self.clock = lambda: self.now

    def members(self) -> tuple[()]:
        return ()

    def admitted_sites(self) -> dict[str, tuple[str, ...]]:
        return {}

    def signed_list(self) -> None:
        return None


def test_a_page_reads_the_rounds_it_shows_and_is_kept_for_a_moment(tmp_path: Path) -> None:
    store, roll = open_store(f"sqlite:///{tmp_path / 'db'}"), Roll()
    state = hand.run_state(hand.round_in(Phase.TRAINING, number=45))
    reader = Reader(store=store, runs=PlayedRun(store, roll.clock), registry=roll, custody=None)
    assert reader.known().run is None
    with store.transaction() as transaction:
        for name in ("older", state.run):
            transaction.put_run(hand.run_row(replace(state, run=name), created=hand.NOW - (name == "older")))
            for attempt in hand.attempts(name, 45):
                transaction.put_round(attempt)
            for model in hand.models(name, 45):
                transaction.put_model(model)
    assert reader.known().run is None
    roll.now += 2.0
    known = reader.known(page=2)
    assert known.run is not None
    assert [row.round.round_number for row in known.run.attempts] == list(range(6, 26))
    assert {model.round_number for model in known.run.models} == set(range(6, 26))
    assert [row.run for row in known.runs] == [state.run, "older"]
    older = reader.known("older", page=3).run
    assert older is not None
    assert not older.current
    assert [row.round.attempt for row in older.attempts if row.round.round_number == 4] == [1, 2]
    assert page_of(replace(known, run=older)).attempts[1].sha256
    with pytest.raises(NotFoundError):
        reader.known("nobody")
    store.close()
