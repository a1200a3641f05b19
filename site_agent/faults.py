"""What other parts of the program raise, turned into the agent's own errors: gRPC statuses and the disk's errors."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc

from protos.errors import ProtocolError, VersionError
from site_agent import proxies
from site_agent.errors import (
    AgentError,
    CorruptedError,
    ForbiddenError,
    IncompatibleError,
    RejectedError,
    RemoteError,
    StaleError,
    StorageError,
    UnauthenticatedError,
    UnreachableError,
)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LONGEST = 300
_TLS_WORDS = ("ssl", "tls", "certificate", "handshake", "socket closed", "connection reset")  # refused by the server
_CODES: Mapping[grpc.StatusCode, type[RemoteError]] = {
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: ForbiddenError,
    grpc.StatusCode.FAILED_PRECONDITION: StaleError,
    grpc.StatusCode.ABORTED: StaleError,
    grpc.StatusCode.NOT_FOUND: StaleError,
    grpc.StatusCode.INVALID_ARGUMENT: RejectedError,
    grpc.StatusCode.DATA_LOSS: CorruptedError,
    grpc.StatusCode.UNIMPLEMENTED: IncompatibleError,
}


@contextmanager
def remote(address: str, proxy: str | None = None) -> Iterator[None]:
    """Turn what a call raises into a `RemoteError` that names the way.

    Raises:
        RemoteError: Named for what to do about it (PROTOCOL 9.1).
    """
    try:
        yield
    except grpc.RpcError as error:
        raise from_status(error, proxies.way(address, proxy)) from error
    except VersionError as error:
        raise IncompatibleError(error.problem, remedy=error.remedy) from error
    except ProtocolError as error:
        raise UnreachableError(f"the coordinator's answer cannot be read: {error.problem}") from error
    except TimeoutError as error:
        raise UnreachableError(f"the coordinator at {proxies.way(address, proxy)} does not go on") from error


def from_status(error: grpc.RpcError, address: str) -> RemoteError:
    """Return the error that a gRPC status means."""
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    details = str(error.details() or "") if hasattr(error, "details") else str(error)
    words = " ".join(details.split())[:_LONGEST].rstrip(".")
    kind = _CODES.get(code)
    if kind is not None:
        return kind(f"the coordinator says: {words or code.name}")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return unreachable(address, words)
    return UnreachableError(f"the coordinator failed ({code.name}: {words})")


def unreachable(address: str, details: str) -> UnreachableError:
    """Return the error for a connection that does not come about, with the likely remedy."""
    remedy = "check the address, the firewall and the proxy, and that the coordinator runs"
    if (status := proxies.refusal(details)) is not None:
        remedy = proxies.remedy(status)
    elif any(word in details.lower() for word in _TLS_WORDS):
        remedy = "run `fedmepd-agent doctor`: it finds out why TLS fails"
    return UnreachableError(f"cannot talk to the coordinator at {address} ({details or 'no answer'})", remedy=remedy)


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn the disk's errors into a `StorageError`.

    Raises:
        StorageError: If the disk is full or cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def storage_error(error: OSError, path: Path) -> StorageError:
    """Return the error for what a disk refused."""
    if error.errno in _FULL:
        return StorageError(f"the disk of {path} is full", remedy="make room; the agent goes on by itself")
    return StorageError(
        f"{path} cannot be used ({error.strerror or error})", remedy="check the disk and the folder's permissions"
    )


def told(error: BaseException) -> bool:
    """Whether an error is one that a person can act on, so that its line is enough."""
    from fedmepd.errors import FedmepdError
    from security.errors import SecurityError

    return isinstance(error, AgentError | SecurityError | ProtocolError | FedmepdError)
