"""One unit of work on a database connection: the transaction port in SQL that SQLite and PostgreSQL share.

Begins and ends nothing; `coordinator.store.engine` does, and keeps other units of work out until then, so that what
is read here still holds when it is written upon.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    Connection,
    Executable,
    RowMapping,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.sql import ColumnElement

from coordinator.errors import ConflictError, NotFoundError
from coordinator.records import AuditRow, LastReport, MemberRow, ModelRow, RoundRow, RunRow, TokenRow, TokenState
from coordinator.store import rows, tables
from protos.terms import ArtefactRef, RoundId

_ROOM_BYTES = 16 << 10


class SqlTransaction:
    """The transaction port; of use until its block ends, by one thread at a time.

    Args:
        connection: In a transaction that nobody else's can overlap.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # -- members ----------------------------------------------------------------------------------------------------

    def put_token(self, token: TokenRow) -> None:
        """Insert or replace a token by its id."""
        self._put(tables.tokens, rows.from_token(token))

    def token(self, token_id: str) -> TokenRow:
        """Return a token; NotFoundError if there is none."""
        row = self._one(tables.tokens, tables.tokens.c.token_id == token_id)
        if row is None:
            raise NotFoundError(f"there is no token {token_id!r}", remedy="ask the operator for a new one")
        return rows.to_token(row)

    def tokens(self) -> tuple[TokenRow, ...]:
        """Return all tokens, oldest first."""
        table = tables.tokens
        return tuple(map(rows.to_token, self._all(select(table).order_by(table.c.created, table.c.token_id))))

    def put_member(self, member: MemberRow) -> None:
        """Insert or replace a member by role and id."""
        self._put(tables.members, rows.from_member(member))

    def member(self, role: str, member_id: str) -> MemberRow:
        """Return a member; NotFoundError if there is none."""
        row = self._one(tables.members, _is_member(role, member_id))
        if row is None:
            raise NotFoundError(f"there is no {role} {member_id!r}", remedy="list the members to see who there is")
        return rows.to_member(row)

    def members(self) -> tuple[MemberRow, ...]:
        """Return all members by role and id."""
        found = map(rows.to_member, self._all(select(tables.members)))
        return tuple(sorted(found, key=lambda member: (member.role, member.member_id)))

    def touch_members(self, seen: Mapping[tuple[str, str], float]) -> None:
        """Set when members were last seen; unknown ones are ignored."""
        for (role, member_id), at in seen.items():
            self._execute(update(tables.members).where(_is_member(role, member_id)).values(last_seen=at))

    def revoke_serial(self, serial: str, at: float) -> None:
        """Add a certificate to the revoked ones; adding it again changes nothing."""
        if self._one(tables.revoked_serials, tables.revoked_serials.c.serial == serial) is None:
            self._put(tables.revoked_serials, {"serial": serial, "at": at})

    def revoked_serials(self) -> frozenset[str]:
        """Return all revoked certificates."""
        return frozenset(row["serial"] for row in self._all(select(tables.revoked_serials)))

    def put_membership(self, version: int, signed_list: bytes, at: float) -> None:
        """Keep a signed list; ConflictError unless its version is higher than all before."""
        last = self._scalar(select(func.max(tables.memberships.c.version)))
        if last is not None and version <= last:
            raise ConflictError(
                f"the membership list {version} is not newer than the list {last}",
                remedy="sign a list with a higher version",
            )
        self._put(tables.memberships, {"version": version, "signed_list": signed_list, "at": at})

    def membership(self) -> bytes | None:
        """Return the signed list of the highest version."""
        table = tables.memberships
        found = self._scalar(select(table.c.signed_list).order_by(table.c.version.desc()).limit(1))
        return None if found is None else bytes(found)

    # -- runs -------------------------------------------------------------------------------------------------------

    def put_run(self, run: RunRow) -> None:
        """Insert or replace a run by its id."""
        self._put(tables.runs, rows.from_run(run))

    def run(self, run: str) -> RunRow:
        """Return a run; NotFoundError if there is none."""
        row = self._one(tables.runs, tables.runs.c.run == run)
        if row is None:
            raise NotFoundError(f"there is no run {run!r}", remedy="list the runs to see which there are")
        return rows.to_run(row)

    def runs(self, *, newest: int | None = None) -> tuple[RunRow, ...]:
        """Return all runs, or the newest so many, oldest first."""
        table = tables.runs
        query = select(table).order_by(table.c.created.desc(), table.c.run.desc())
        return tuple(rows.to_run(row) for row in reversed(self._all(query.limit(newest))))

    def last_run(self) -> RunRow | None:
        """Return the run that was started last; None before the first."""
        table = tables.runs
        found = self._all(select(table).order_by(table.c.created.desc(), table.c.run.desc()).limit(1))
        return rows.to_run(found[0]) if found else None

    def run_ids(self) -> frozenset[str]:
        """Return the ids of all runs."""
        return frozenset(row["run"] for row in self._all(select(tables.runs.c.run)))

    def put_round(self, record: RoundRow) -> None:
        """Insert or replace a round's attempt."""
        self._put(tables.rounds, rows.from_round(record))

    def rounds(self, run: str, *, newest: int | None = None, before: RoundId | None = None) -> tuple[RoundRow, ...]:
        """Return a run's attempts at rounds by number and attempt: all or the newest, and only those before one."""
        number, attempt = tables.rounds.c.round_number, tables.rounds.c.attempt
        query = select(tables.rounds).where(tables.rounds.c.run == run)
        if before is not None:
            last, same = before.round_number, and_(number == before.round_number, attempt < before.attempt)
            query = query.where(or_(number < last, same))
        found = self._all(query.order_by(number.desc(), attempt.desc()).limit(newest))
        return tuple(rows.to_round(row) for row in reversed(found))

    def put_model(self, model: ModelRow) -> None:
        """Insert or replace a model by run and round."""
        self._put(tables.models, rows.from_model(model))

    def models(self, run: str | None = None) -> tuple[ModelRow, ...]:
        """Return models of one run or all, by run and round."""
        return self._models(select(tables.models), run)

    def last_models(
        self, run: str | None, *, newest: int, before: tuple[str, int] | None = None, kept: bool = False
    ) -> tuple[ModelRow, ...]:
        """Return the last models of one run or all, by run and round, also only kept ones or those before one."""
        table = tables.models
        query = select(table) if run is None else select(table).where(table.c.run == run)
        if before is not None:
            same = and_(table.c.run == before[0], table.c.round_number < before[1])
            query = query.where(or_(table.c.run < before[0], same))
        if kept:
            query = query.where(table.c.kept)
        found = self._all(query.order_by(table.c.run.desc(), table.c.round_number.desc()).limit(newest))
        return tuple(rows.to_model(row) for row in reversed(found))

    def kept_models(self, run: str | None = None) -> tuple[ModelRow, ...]:
        """Return the models of one run or all whose files are kept, by run and round."""
        return self._models(select(tables.models).where(tables.models.c.kept), run)

    def models_between(self, run: str, first: int, last: int) -> tuple[ModelRow, ...]:
        """Return the models of a run from one round to another, both included, by round."""
        return self._models(select(tables.models).where(tables.models.c.round_number.between(first, last)), run)

    def _models(self, query: Select[Any], run: str | None) -> tuple[ModelRow, ...]:
        found = self._all(query if run is None else query.where(tables.models.c.run == run))
        return tuple(sorted(map(rows.to_model, found), key=lambda model: (model.run, model.round_number)))

    # -- reports and inputs -----------------------------------------------------------------------------------------

    def last_report(self, site: str) -> LastReport | None:
        """Return a site's last numbered report."""
        row = self._one(tables.last_reports, tables.last_reports.c.site == site)
        return None if row is None else rows.to_report(row)

    def put_last_report(self, site: str, report: LastReport) -> None:
        """Replace a site's last numbered report."""
        self._put(tables.last_reports, rows.from_report(site, report))

    def put_input(self, round_id: RoundId, site: str, vector: ArtefactRef) -> None:
        """Note that a site's input of a round is whole in the blob store; again with the same value changes nothing.

        Raises:
            ConflictError: If another input of the site is noted for this round.
        """
        known = self.inputs(round_id).get(site)
        if known is not None and known != vector:
            raise ConflictError(
                f"{site} already gave another input for the round {round_id}",
                remedy="ask for the next instruction",
            )
        row = {"site": site, "vector_sha256": vector.sha256, "vector_size": vector.size}
        self._put(tables.inputs, {**rows.from_round_id(round_id), **row})

    def inputs(self, round_id: RoundId) -> dict[str, ArtefactRef]:
        """Return the whole inputs of a round by site."""
        found = self._all(select(tables.inputs).where(_of_round(tables.inputs, round_id)))
        made = {row["site"]: ArtefactRef(sha256=row["vector_sha256"], size=row["vector_size"]) for row in found}
        return dict(sorted(made.items()))

    def forget_inputs(self, round_id: RoundId) -> None:
        """Remove the notes of a round's inputs."""
        self._execute(delete(tables.inputs).where(_of_round(tables.inputs, round_id)))

    def put_step(self, round_id: RoundId, site: str, step: str, content: bytes) -> None:
        """Keep a site's message of a step of secure aggregation; again with the same content changes nothing.

        Raises:
            ConflictError: If another one is kept.
        """
        table = tables.step_messages
        here = and_(_of_round(table, round_id), table.c.site == site, table.c.step == step)
        known = self._scalar(select(table.c.content).where(here))
        if known is not None and bytes(known) != content:
            raise ConflictError(
                f"{site} has another message kept as {step} in the round {round_id}",
                remedy="one answer is given per attempt, and never another",
            )
        self._put(table, {**rows.from_round_id(round_id), "site": site, "step": step, "content": content})

    def steps(self, round_id: RoundId) -> dict[str, dict[str, bytes]]:
        """Return the messages of an attempt by step and site."""
        found: dict[str, dict[str, bytes]] = {}
        for row in self._all(select(tables.step_messages).where(_of_round(tables.step_messages, round_id))):
            found.setdefault(row["step"], {})[row["site"]] = bytes(row["content"])
        return found

    def forget_steps(self, round_id: RoundId) -> None:
        """Remove the messages of an attempt."""
        self._execute(delete(tables.step_messages).where(_of_round(tables.step_messages, round_id)))

    # -- retention --------------------------------------------------------------------------------------------------

    def forget_details(self, run: str, up_to: int, limit: int) -> int:
        """Empty the details of a run's rounds up to a number, of so many attempts at most, the oldest first.

        What is left of their inputs and steps goes too. Number, outcome, reason and times stay. Returns how many
        attempts lost their details.
        """
        table = tables.rounds
        number, attempt = table.c.round_number, table.c.attempt
        old = and_(table.c.run == run, number <= up_to, table.c.detail != "")
        found = self._all(select(number, attempt).where(old).order_by(number, attempt).limit(limit))
        for row in found:
            round_id = RoundId(run=run, round_number=row["round_number"], attempt=row["attempt"])
            self._execute(update(table).where(_of_round(table, round_id)).values(detail=""))
            self.forget_inputs(round_id)
            self.forget_steps(round_id)
        return len(found)

    def runs_with_details(self, ended_before: float, limit: int) -> tuple[str, ...]:
        """Return runs that ended before a time and have rounds with details, so many at most, the oldest first."""
        runs, rounds = tables.runs, tables.rounds
        detailed = select(rounds.c.run).where(rounds.c.run == runs.c.run, rounds.c.detail != "").exists()
        query = select(runs.c.run).where(runs.c.ended < ended_before, detailed).order_by(runs.c.ended).limit(limit)
        return tuple(row["run"] for row in self._all(query))

    def forget_tokens(self, expired_before: float, limit: int) -> int:
        """Remove some tokens that expired before a time, but none that waits for a person; return how many."""
        table = tables.tokens
        old = and_(table.c.expires < expired_before, table.c.state != TokenState.AWAITING.value)
        found = [row["token_id"] for row in self._all(select(table.c.token_id).where(old).limit(limit))]
        for token_id in found:
            self._execute(delete(table).where(table.c.token_id == token_id))
        return len(found)

    # -- audit ------------------------------------------------------------------------------------------------------

    def append_audit(self, row: AuditRow) -> None:
        """Add a record; ConflictError unless its sequence is one more than the last (the first is 0)."""
        last = self._scalar(select(func.max(tables.audit.c.sequence)))
        wanted = 0 if last is None else last + 1
        if row.sequence != wanted:
            raise ConflictError(
                f"the audit record {row.sequence} does not follow the last one, {wanted} would",
                remedy="chain it to the newest record again",
            )
        self._put(tables.audit, rows.from_audit(row))

    def last_audit(self) -> AuditRow | None:
        """Return the newest audit record."""
        found = self._all(select(tables.audit).order_by(tables.audit.c.sequence.desc()).limit(1))
        return rows.to_audit(found[0]) if found else None

    def last_audit_of(self, action: str) -> AuditRow | None:
        """Return the newest audit record of an action."""
        table = tables.audit
        found = self._all(select(table).where(table.c.action == action).order_by(table.c.sequence.desc()).limit(1))
        return rows.to_audit(found[0]) if found else None

    def audit(self, *, after: int, limit: int) -> tuple[AuditRow, ...]:
        """Return records with a higher sequence, oldest first."""
        column = tables.audit.c.sequence
        query = select(tables.audit).where(column > after).order_by(column).limit(limit)
        return tuple(map(rows.to_audit, self._all(query)))

    # -- checks -----------------------------------------------------------------------------------------------------

    def check_room(self, at: float) -> None:
        """Write when the database was last checked, and that it has room for some pages more; it keeps the time."""
        row = {"name": "room", "at": at}
        self._put(tables.checks, {**row, "padding": os.urandom(_ROOM_BYTES)})  # which no database makes smaller
        self._put(tables.checks, {**row, "padding": b""})

    def last_check(self) -> float | None:
        """Return when that was; None for never."""
        found: float | None = self._scalar(select(tables.checks.c.at).where(tables.checks.c.name == "room"))
        return found

    # -- SQL --------------------------------------------------------------------------------------------------------

    def _put(self, table: Table, row: dict[str, Any]) -> None:
        """Insert a row, or replace the one of the same primary key."""
        self._connection.execute(_upsert(self._connection.dialect.name, table, tuple(row)), row)

    def _execute(self, statement: Executable) -> None:
        self._connection.execute(statement)

    def _all(self, query: Executable) -> Sequence[RowMapping]:
        return self._connection.execute(query).mappings().all()

    def _one(self, table: Table, where: ColumnElement[bool]) -> RowMapping | None:
        return self._connection.execute(select(table).where(where)).mappings().one_or_none()

    def _scalar(self, query: Executable) -> Any:
        return self._connection.execute(query).scalar_one_or_none()


@cache
def _upsert(dialect: str, table: Table, names: tuple[str, ...]) -> Executable:
    """Return the statement that inserts a row with these columns, or replaces the one of the same primary key."""
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]  # megabytes beside SQLite
    keys = [column.name for column in table.primary_key]
    statement = insert(table).values({name: bindparam(name) for name in names})
    values = {name: statement.excluded[name] for name in names if name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=values)


def _is_member(role: str, member_id: str) -> ColumnElement[bool]:
    return and_(tables.members.c.role == role, tables.members.c.member_id == member_id)


def _of_round(table: Table, round_id: RoundId) -> ColumnElement[bool]:
    return and_(*(table.c[name] == value for name, value in rows.from_round_id(round_id).items()))
