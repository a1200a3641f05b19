"""The status page in a real browser with scripts off: the one-time link, the look on a desk and on a phone, dark."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from security.membership import MembershipList
from security.pki.certificates import split_bundle
from tests.coordinator import status_at_hand as hand
from tests.coordinator.browser import CHROMIUM, Browser, browser
from tests.coordinator.runs_at_hand import Scene
from tests.coordinator.served import Served, served

PICTURES = os.environ.get("FEDMEPD_STATUS_PICTURES")  # a folder, to look at them or to renew docs/status-page.png
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("FEDMEPD_REQUIRE_BROWSER"), reason="there is no Chromium here"
)


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("browsed")) as made:
        state = hand.run_state(hand.round_in(hand.Phase.TRAINING, number=27), previous=hand.names(8)[:-1])
        assert state.published is not None
        state = replace(state, published=replace(state.published, round_number=26))
        made.registry.clock = made.runs._clock = lambda: hand.NOW
        made.runs.scene = Scene(state=state)
        made.registry.admitted_sites = lambda now=None: dict(state.sites)  # type: ignore[method-assign]
        signed = MembershipList(
            consortium=made.registry.consortium,
            version=3,
            issued_at=datetime.fromtimestamp(hand.NOW, UTC),
            minimum_cohort=5,
            members=(),
        )
        made.registry.signed_list = lambda: signed  # type: ignore[method-assign]
        doing = hand.known(state).run
        assert doing is not None
        made.runs.site_activity = doing.seen.__getitem__  # type: ignore[method-assign]
        with made.store.transaction() as transaction:
            older = replace(state, run="glioma-2025", status=hand.RunStatus.COMPLETED, reason="", round=None)
            transaction.put_run(hand.run_row(older, created=hand.NOW - 90 * 86_400.0))
            transaction.put_run(hand.run_row(state))
            for row in hand.attempts(state.run, 27):
                transaction.put_round(row)
            for model in hand.models(state.run, 27):
                transaction.put_model(model)
            for member in hand.members():
                transaction.put_member(member)
        yield made


@pytest.fixture(scope="module")
def chromium(fed: Served) -> Iterator[Browser]:
    with browser(split_bundle(fed.credentials.loaded.chain_pem)[0]) as made:
        yield made


def pictured(chromium: Browser, name: str, height: int, tmp_path: Path) -> int:
    """Take a picture and return its size."""
    path = (Path(PICTURES) if PICTURES else tmp_path) / f"{name}.png"
    chromium.picture(path, height)
    return path.stat().st_size


def test_a_link_is_opened_by_its_button_and_the_page_can_be_read(
    fed: Served, chromium: Browser, tmp_path: Path
) -> None:
    chromium.size(1180, 900)
    said = fed.admin("status-page", "link")
    assert said.code == 0, said.err
    url = said.out.strip()
    assert "Please sign in" in chromium.open(f"https://{fed.page.address}/")
    for _ in range(2):
        assert "Open the page" in chromium.open(url)
    text = chromium.click("#open")
    for seen in ("running", "Round 27", "hospital-03", "you are admin alice by link", "0.871"):
        assert seen in text
    assert chromium.styled("body", "background-color") == "rgb(253, 253, 251)"
    assert chromium.width()[1] <= 1180
    assert pictured(chromium, "desk", 1660, tmp_path) > 50_000
    older = chromium.click('a[rel="next"]')
    assert "Rounds 1 to 7, page 2 of 2" in older
    past = chromium.open(f"https://{fed.page.address}/?run=glioma-2025")
    assert "completed" in past
    assert "run of the past" in past
    assert not [error for error in chromium.errors if "Content Security Policy" in error]


def test_on_a_phone_and_in_the_dark_nothing_is_wider_than_the_screen(
    fed: Served, chromium: Browser, tmp_path: Path
) -> None:
    chromium.size(390, 844, phone=True, dark=True)
    url = fed.admin("status-page", "link").out.strip()
    chromium.open(url)
    assert "Round 27" in chromium.click("#open")
    assert chromium.styled("body", "background-color") == "rgb(20, 23, 26)"
    shown, content = chromium.width()
    assert content <= shown == 390
    assert pictured(chromium, "phone", 2400, tmp_path) > 50_000
    left = chromium.click("footer button")
    assert "Please sign in" in left


def test_a_certificate_of_an_unknown_root_is_not_opened(fed: Served) -> None:
    with (
        browser(fed.credentials.loaded.trust.root) as careful,  # its key is in no chain that is sent
        pytest.raises(ConnectionError, match="ERR_CERT"),
    ):
        careful.open(f"https://{fed.page.address}/")
