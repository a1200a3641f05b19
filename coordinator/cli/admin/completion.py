"""What the shell completes: ids of runs, sites, members and tokens, and rounds that made a model, as they are now.

Whoever presses the key wants an answer at once and no error in the middle of a line: the coordinator is given two
seconds, and whatever goes wrong completes nothing. Certificates are not renewed here and no passphrase is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from protos.v1.admin_pb2_grpc import AdminStub

TIMEOUT_S = 2.0
Found = list[tuple[str, str]]


def runs(context: typer.Context, incomplete: str) -> Found:
    """Complete a run, the latest first."""
    return _asked(context, incomplete, _runs)


def sites(context: typer.Context, incomplete: str) -> Found:
    """Complete a site."""
    return _asked(context, incomplete, lambda stub: _members(stub, "site"))


def members(context: typer.Context, incomplete: str) -> Found:
    """Complete a member of the role that stands before it."""
    role = context.params.get("role")
    return _asked(context, incomplete, lambda stub: _members(stub, str(getattr(role, "value", role or ""))))


def tokens(context: typer.Context, incomplete: str) -> Found:
    """Complete a token that can still be revoked."""
    return _asked(context, incomplete, _tokens)


def rounds(context: typer.Context, incomplete: str) -> Found:
    """Complete a round of the run that is named."""
    return _asked(context, incomplete, lambda stub: _rounds(stub, context.params.get("run") or ""))


def models(context: typer.Context, incomplete: str) -> Found:
    """Complete a round whose model is kept."""
    return _asked(context, incomplete, lambda stub: _models(stub, context.params.get("run") or ""))


def _runs(stub: AdminStub) -> Iterable[tuple[str, str]]:
    from protos.v1 import admin_pb2 as messages

    found = stub.ListRuns(messages.ListRunsRequest(), timeout=TIMEOUT_S).runs
    return [(view.run, f"{view.method}, {view.state}") for view in reversed(found)]


def _members(stub: AdminStub, role: str) -> Iterable[tuple[str, str]]:
    from coordinator.cli.admin.output import plain
    from protos.v1 import admin_pb2 as messages

    found = map(plain, stub.ListMembers(messages.ListMembersRequest(), timeout=TIMEOUT_S).members)
    return [(one["id"], f"{one['role']}, {one['state']}") for one in found if role in {"", one["role"]}]


def _tokens(stub: AdminStub) -> Iterable[tuple[str, str]]:
    from coordinator.cli.admin.output import plain
    from protos.v1 import admin_pb2 as messages

    found = map(plain, stub.ListTokens(messages.ListTokensRequest(), timeout=TIMEOUT_S).tokens)
    useful = (one for one in found if one["state"] in {"open", "awaiting approval"})
    return [(one["token_id"], f"{one['role']} {one['id']}, {one['state']}") for one in useful]


def _rounds(stub: AdminStub, run: str) -> Iterable[tuple[str, str]]:
    from coordinator.cli.admin.output import plain
    from protos.v1 import admin_pb2 as messages

    found = map(plain, stub.ListRounds(messages.ListRoundsRequest(run=run, limit=50), timeout=TIMEOUT_S).rounds)
    return {str(one["round"]): one["phase"] for one in reversed(list(found))}.items()


def _models(stub: AdminStub, run: str) -> Iterable[tuple[str, str]]:
    from protos.v1 import admin_pb2 as messages

    found = stub.ListModels(messages.ListModelsRequest(run=run, kept=True), timeout=TIMEOUT_S).models
    return [(str(one.round), f"{one.run}{', promoted' if one.promoted else ''}") for one in reversed(found)]


def _asked(
    context: typer.Context, incomplete: str, question: Callable[[AdminStub], Iterable[tuple[str, str]]]
) -> Found:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # nothing may appear in the line that is being typed
    try:
        return [(word, told) for word, told in _answer(_identity(context), question) if word.startswith(incomplete)]
    except Exception:  # noqa: BLE001  a shell that completes nothing says it all
        return []


def _answer(identity: Path, question: Callable[[AdminStub], Iterable[tuple[str, str]]]) -> Iterable[tuple[str, str]]:
    from coordinator.admin_channel import member_channel
    from coordinator.cli.admin.connection import read_addresses
    from coordinator.cli.passphrases import key_passphrase
    from protos.v1.admin_pb2_grpc import AdminStub
    from security.folders import IdentityFolder

    loaded = IdentityFolder(identity).load(key_passphrase())
    with member_channel(read_addresses(identity).members, loaded) as channel:
        return list(question(AdminStub(channel)))


def _identity(context: typer.Context) -> Path:
    from coordinator.cli.admin.options import IDENTITY_VARIABLE, default_identity

    given: Any = context.params.get("identity") or os.environ.get(IDENTITY_VARIABLE) or default_identity()
    return Path(given)
