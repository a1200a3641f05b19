"""The one table from errors to gRPC status codes. What is not in it is internal: logged, and told as INTERNAL."""

from __future__ import annotations

import grpc

from coordinator import errors
from fedmepd.errors import FedmepdError
from protos.errors import ProtocolError, VersionError
from security.errors import SecurityError, TokenError

_CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.StaleError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.ReplayError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.ConflictError, grpc.StatusCode.ABORTED),
    (errors.RefusedError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.CorruptedError, grpc.StatusCode.DATA_LOSS),
    (errors.UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (errors.ForbiddenError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.ImpatienceError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.StorageError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (VersionError, grpc.StatusCode.UNIMPLEMENTED),
    (ProtocolError, grpc.StatusCode.INVALID_ARGUMENT),
    (TokenError, grpc.StatusCode.PERMISSION_DENIED),
    (SecurityError, grpc.StatusCode.PERMISSION_DENIED),
    (FedmepdError, grpc.StatusCode.INVALID_ARGUMENT),
)


def status_of(error: Exception) -> tuple[grpc.StatusCode, str] | None:
    """Return code and public message of an error; None for one that is internal."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code, str(error)
    return None
