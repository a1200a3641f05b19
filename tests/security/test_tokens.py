"""Enrolment tokens: one string, one party, one use, for a while."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security import tokens
from security.errors import ExpiredTokenError, TokenError, UsedTokenError, WrongTokenError
from security.identity import Role

PIN = "ab" * 32


@pytest.fixture
def minted(site, now, day):
    return tokens.mint(site, pin=PIN, expires_at=now + day)


def check(minted, site, now, *, token=None, used=False):
    held, record = minted
    tokens.check(record, token or held, identity=site, now=now, used=used)


def test_a_token_survives_copy_and_paste(minted, site, now):
    token = tokens.parse(f"  {minted[0].text}\n")
    assert token == minted[0]
    assert token.pin == PIN
    check(minted, site, now, token=token)


def test_no_secret_is_kept_or_shown(minted):
    token, record = minted
    assert token.secret not in repr(token)
    assert token.secret.encode() not in record.secret_hash
    assert "secret" not in repr(record)
    assert len(record.secret_hash) == 32


def test_tokens_are_different(site, now):
    made = {tokens.mint(site, pin=PIN, expires_at=now)[0].text for _ in range(20)}
    assert len(made) == 20


def test_a_wrong_secret_or_id_is_refused_before_anything_else_is_said(minted, site, now, day):
    token = minted[0]
    other = replace(token, secret="a" * 32)
    with pytest.raises(WrongTokenError, match=r"not known.*fedmepd-admin tokens create"):
        check(minted, site, now + 9 * day, token=other, used=True)
    with pytest.raises(WrongTokenError, match="not known"):
        check(minted, site, now, token=replace(token, id="0" * 16))


def test_a_token_is_for_one_party(minted, site, now):
    for somebody in (replace(site, id="b"), replace(site, role=Role.ADMIN), replace(site, consortium="heart.example")):
        with pytest.raises(WrongTokenError, match="is for"):
            check(minted, somebody, now)


def test_a_used_token_says_whom_to_tell(minted, site, now):
    with pytest.raises(UsedTokenError, match="tell the operator at once"):
        check(minted, site, now, used=True)


def test_an_expired_token_is_refused(minted, site, now, day):
    with pytest.raises(ExpiredTokenError, match="fedmepd-admin tokens create"):
        check(minted, site, now + day)


@given(st.text())
def test_other_texts_are_not_tokens_and_are_not_repeated(text):
    with pytest.raises(WrongTokenError) as refused:
        tokens.parse(text)
    assert str(refused.value).startswith("the text is not an enrolment token.")


@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t + "0", lambda t: t.upper(), lambda t: "x" + t])
def test_incomplete_tokens_are_refused(minted, change):
    with pytest.raises(WrongTokenError, match="copy all of it"):
        tokens.parse(change(minted[0].text))


def test_a_malformed_pin_or_expiry_is_refused(site, now):
    with pytest.raises(TokenError, match="pin"):
        tokens.mint(site, pin="sha256:" + PIN, expires_at=now)
    with pytest.raises(TokenError, match="time zone"):
        tokens.mint(site, pin=PIN, expires_at=datetime(2030, 1, 1))  # noqa: DTZ001
