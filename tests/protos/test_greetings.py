"""The two ends agree on a version, or are told what to install (PROTOCOL 1)."""

from __future__ import annotations

import pytest

from fedmepd import __version__
from protos import codec
from protos.errors import MalformedMessageError, VersionError
from protos.terms import PROTOCOL
from protos.v1 import common_pb2 as common


@pytest.mark.parametrize("newest", [PROTOCOL, PROTOCOL + 7])
def test_the_version_that_both_speak_is_chosen(newest: int) -> None:
    assert codec.negotiate(PROTOCOL, newest) == PROTOCOL


def test_an_agent_that_is_too_new_learns_both_ways_out() -> None:
    with pytest.raises(VersionError) as caught:
        codec.negotiate(3, 4)
    assert str(caught.value) == (
        "the agent speaks protocol 3 to 4, this coordinator 1. "
        f"install fedmepd-agent {__version__}, or update the coordinator."
    )


def test_a_program_that_is_too_old_learns_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protos.codec.greetings.PROTOCOL", 5)
    with pytest.raises(VersionError) as caught:
        codec.negotiate(2, 2, caller="admin")
    assert str(caught.value) == (
        f"the admin speaks protocol 2, this coordinator 5. install fedmepd-admin {__version__}."
    )


@pytest.mark.parametrize(("oldest", "newest"), [(0, 0), (0, 1), (2, 1)])
def test_what_is_no_range_is_malformed(oldest: int, newest: int) -> None:
    with pytest.raises(MalformedMessageError, match=r"HelloRequest\.oldest_protocol"):
        codec.negotiate(oldest, newest)


def test_a_coordinator_of_another_version_is_named_with_its_release() -> None:
    message = common.HelloReply(protocol=2, software="fedmepd-coordinator 0.9.0", consortium="demo", clock=1.0)
    with pytest.raises(VersionError, match=r"speaks protocol 2, this program 1\. .* fedmepd-coordinator 0\.9\.0\."):
        codec.decode_welcome(message)


def test_a_program_says_what_it_speaks() -> None:
    message = codec.encode_hello(codec.Hello(software="fedmepd-agent 0.1.0"))
    assert (message.oldest_protocol, message.newest_protocol) == (PROTOCOL, PROTOCOL)
