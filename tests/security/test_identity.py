"""Identities: one URI each, and nothing else is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.errors import IdentityError
from security.identity import Identity, Role


@given(
    st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,4})?\.[a-z]{2,5}", fullmatch=True),
    st.sampled_from(Role),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True),
)
def test_an_identity_survives_its_uri(consortium, role, name):
    identity = Identity(consortium=consortium, role=role, id=name)
    assert Identity.parse(identity.uri) == identity
    assert str(identity) == identity.uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://brain.example/site/a",
        "SPIFFE://brain.example/site/a",
        "spiffe://Brain.example/site/a",
        "spiffe://brain.example/site",
        "spiffe://brain.example/site/",
        "spiffe://brain.example/site/a/",
        "spiffe://brain.example/site/a/b",
        "spiffe://brain.example/site/a?x=1",
        "spiffe://brain.example/site/a\n",
        "spiffe://brain.example/site/-a",
        "spiffe://brain.example/site/ä",
        "spiffe://brain.example/site/" + "a" * 64,
        "spiffe://brain.example/Site/a",
        "spiffe://brain.example/nurse/a",
        "spiffe://brain.example:443/site/a",
        "spiffe://user@brain.example/site/a",
        "spiffe://brain..example/site/a",
        "spiffe://-brain.example/site/a",
        "spiffe://10.0.0.1/site/a",
        "spiffe://" + "a" * 64 + "/site/a",
        "spiffe:///site/a",
    ],
)
def test_anything_else_is_refused(uri):
    with pytest.raises(IdentityError):
        Identity.parse(uri)


def test_an_unknown_role_names_the_known_ones():
    with pytest.raises(IdentityError, match="coordinator, site, admin, operator, auditor"):
        Identity.parse("spiffe://brain.example/nurse/a")


@pytest.mark.parametrize("name", ["", "../a", "a b", "a" * 64])
def test_malformed_ids_cannot_be_constructed(name):
    with pytest.raises(IdentityError):
        Identity(consortium="brain.example", role=Role.SITE, id=name)
