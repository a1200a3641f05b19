"""The Enrolment service: what newcomers are told, and that the door is narrow."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from unittest.mock import patch

import grpc
import pytest

from coordinator.admin_channel import newcomer_channel, served_leaf
from coordinator.cli.admin.ceremony import verified_trust
from coordinator.cli.passphrases import consortium_passphrase
from coordinator.enrolment import PENALTY_S, WRONG_TOKENS, Patience
from coordinator.errors import ConfigError, CoordinatorError
from protos.terms import PROTOCOL
from protos.v1 import common_pb2 as common
from protos.v1 import enrolment_pb2 as messages
from protos.v1.admin_pb2_grpc import AdminStub
from protos.v1.enrolment_pb2_grpc import EnrolmentStub
from security.errors import SecurityError
from tests.coordinator.registry_at_hand import Clock
from tests.coordinator.served import CONSORTIUM, Served, served

Call = Callable[[messages.EnrolRequest], messages.EnrolReply]


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("enrolment")) as made:
        yield made


@pytest.fixture
def stub(fed: Served) -> Iterator[EnrolmentStub]:
    credentials = grpc.ssl_channel_credentials(served_leaf(fed.newcomers))
    with grpc.secure_channel(fed.newcomers, credentials) as channel:
        yield EnrolmentStub(channel)
    fed.patience._wrong.clear()


def refusal(call: Call, request: messages.EnrolRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    return caught.value.code(), caught.value.details()


def hello(version: int = PROTOCOL) -> messages.DescribeRequest:
    return messages.DescribeRequest(
        hello=common.HelloRequest(oldest_protocol=version, newest_protocol=version, software="fedmepd-agent 1")
    )


def test_a_newcomer_is_told_what_its_token_pins(fed: Served, stub: EnrolmentStub) -> None:
    reply = stub.Describe(hello())
    assert reply.hello.consortium == CONSORTIUM
    assert reply.root_pem == fed.registry.trust.root_pem
    assert reply.membership_public_key == fed.registry.trust.membership_key
    assert verified_trust(fed.newcomers, fed.registry.trust.pin).consortium == CONSORTIUM
    with pytest.raises(SecurityError, match="not those of the token"):
        verified_trust(fed.newcomers, "0" * 64)


def test_a_version_too_new_is_told_what_to_install(stub: EnrolmentStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Describe(hello(PROTOCOL + 1))
    assert "install" in caught.value.details()


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (messages.EnrolRequest(), grpc.StatusCode.PERMISSION_DENIED),
        (messages.EnrolRequest(token_id="x" * 64, token_secret="y" * 64), grpc.StatusCode.PERMISSION_DENIED),
        (messages.EnrolRequest(modalities=["m" * 64] * 1000), grpc.StatusCode.INVALID_ARGUMENT),
        (messages.EnrolRequest(certificate_request_pem=bytes(40_000)), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_nonsense_is_refused(stub: EnrolmentStub, request_: messages.EnrolRequest, code: grpc.StatusCode) -> None:
    assert refusal(stub.Enrol, request_)[0] is code


def test_an_address_that_guesses_has_to_wait_and_is_counted(fed: Served, stub: EnrolmentStub) -> None:
    before = fed.calls.copy()
    for _ in range(WRONG_TOKENS):
        assert refusal(stub.Enrol, messages.EnrolRequest(token_id="0" * 16))[0] is grpc.StatusCode.PERMISSION_DENIED
    code, details = refusal(stub.Enrol, messages.EnrolRequest(token_id="0" * 16))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "too many wrong tokens from ipv4:127.0.0.1" in details
    told = fed.calls - before
    assert dict(told) == {("Enrol", "PERMISSION_DENIED"): WRONG_TOKENS, ("Enrol", "RESOURCE_EXHAUSTED"): 1}


def test_the_members_port_takes_nobody_without_a_certificate(fed: Served) -> None:
    address = fed.members
    with (
        pytest.raises(CoordinatorError, match="cannot talk to the coordinator"),
        newcomer_channel(address, fed.registry.trust.root_pem) as channel,
    ):
        AdminStub(channel).Hello(common.HelloRequest(), timeout=10)


def test_the_newcomers_port_serves_nothing_else(fed: Served) -> None:
    with (
        pytest.raises(CoordinatorError, match="older than this program"),
        newcomer_channel(fed.newcomers, fed.registry.trust.root_pem) as channel,
    ):
        AdminStub(channel).Hello(common.HelloRequest(), timeout=10)


def test_patience_ends_and_its_memory_is_bounded() -> None:
    clock = Clock()
    patience = Patience(clock)
    for _ in range(WRONG_TOKENS):
        assert patience.seconds_left("a") == 0
        patience.wrong("a")
    assert patience.seconds_left("a") == PENALTY_S
    assert patience.seconds_left("b") == 0
    clock.now += PENALTY_S
    assert patience.seconds_left("a") == 0
    patience.wrong("a")
    assert patience.seconds_left("a") == 0
    for number in range(10_000):
        patience.wrong(str(number))
    assert len(patience._wrong) == 4096


def test_a_passphrase_without_a_terminal_comes_from_the_environment() -> None:
    with (
        patch.dict("os.environ", clear=True),
        patch("sys.stdin", io.StringIO()),
        pytest.raises(ConfigError, match="set FEDMEPD_CONSORTIUM_PASSPHRASE"),
    ):
        consortium_passphrase()
    with patch.dict("os.environ", FEDMEPD_CONSORTIUM_PASSPHRASE="from there"):
        assert consortium_passphrase() == b"from there"
