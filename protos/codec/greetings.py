"""Hello: the two ends say what they are and agree on a version (PROTOCOL 1)."""

from __future__ import annotations

from dataclasses import dataclass

from fedmepd import __version__
from protos.codec.checks import quantity, quoted, refuse, text
from protos.errors import VersionError
from protos.terms import PROTOCOL
from protos.v1 import common_pb2 as common
from security.errors import IdentityError
from security.identity import check_consortium

_LONGEST_SOFTWARE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a caller says it is.

    Attributes:
        oldest: Oldest version of the protocol that it speaks.
        newest: Newest one.
        software: Name and release, such as `fedmepd-agent 0.2.0`.
    """

    oldest: int = PROTOCOL
    newest: int = PROTOCOL
    software: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """What the coordinator says it is.

    Attributes:
        protocol: The version to be spoken from now on.
        software: Name and release.
        consortium: Whom it serves.
        clock: Its time, for diagnosis only.
    """

    protocol: int
    software: str
    consortium: str
    clock: float


def negotiate(oldest: int, newest: int, *, caller: str = "agent") -> int:
    """Return the version to be spoken with a caller.

    Args:
        oldest: Oldest version that the caller speaks.
        newest: Newest one.
        caller: What it is, for the error.

    Raises:
        MalformedMessageError: If that is no range.
        VersionError: If this program speaks none of them.
    """
    if not 1 <= oldest <= newest:
        refuse("HelloRequest.oldest_protocol", f"{oldest}, with {newest} as the newest, is no range of versions")
    spoken = f"{oldest}" if oldest == newest else f"{oldest} to {newest}"
    problem = f"the {caller} speaks protocol {spoken}, this coordinator {PROTOCOL}"
    install = f"install fedmepd-{caller} {__version__}"
    if oldest > PROTOCOL:
        raise VersionError(problem, remedy=f"{install}, or update the coordinator")
    if newest < PROTOCOL:
        raise VersionError(problem, remedy=install)
    return PROTOCOL


def encode_hello(hello: Hello) -> common.HelloRequest:
    """Return a caller's first message."""
    return common.HelloRequest(oldest_protocol=hello.oldest, newest_protocol=hello.newest, software=hello.software)


def decode_hello(message: common.HelloRequest) -> Hello:
    """Return what a caller says it is; `negotiate` is the next step.

    Raises:
        MalformedMessageError: Naming the field.
    """
    if not 1 <= message.oldest_protocol <= message.newest_protocol:
        refuse("HelloRequest.newest_protocol", f"{message.newest_protocol} is no end of a range of versions")
    return Hello(
        oldest=message.oldest_protocol,
        newest=message.newest_protocol,
        software=software(message.software, "HelloRequest.software"),
    )


def encode_welcome(welcome: Welcome) -> common.HelloReply:
    """Return the coordinator's answer."""
    return common.HelloReply(
        protocol=welcome.protocol, software=welcome.software, consortium=welcome.consortium, clock=welcome.clock
    )


def decode_welcome(message: common.HelloReply, where: str = "HelloReply") -> Welcome:
    """Return what the coordinator says it is.

    Raises:
        MalformedMessageError: Naming the field.
        VersionError: If it wants to speak a version that this program does not know.
    """
    name = software(message.software, f"{where}.software")
    if message.protocol != PROTOCOL:
        raise VersionError(
            f"the coordinator speaks protocol {message.protocol}, this program {PROTOCOL}",
            remedy=f"install the release of the coordinator, which is {name}",
        )
    try:
        check_consortium(message.consortium[:64])
    except IdentityError:
        refuse(f"{where}.consortium", f"{quoted(message.consortium)} is not a consortium name")
    clock = quantity(message.clock, f"{where}.clock")
    return Welcome(protocol=message.protocol, software=name, consortium=message.consortium, clock=clock)


def software(value: str, where: str) -> str:
    """Check the name and release of a program (PROTOCOL 1.4)."""
    if not value:
        refuse(where, "empty")
    return text(value, where, most=_LONGEST_SOFTWARE)
