"""What every store must do; `test_store.py` runs it on SQLite and PostgreSQL. Needs a fixture `url`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from coordinator.errors import ConflictError, NotFoundError, StorageError
from coordinator.ports import Transaction
from coordinator.records import (
    AuditRow,
    EnrolmentRequest,
    LastReport,
    MemberRow,
    MemberState,
    ModelRow,
    RoundRow,
    RunRow,
    TokenRow,
    TokenState,
)
from coordinator.store import SqlStore, open_store, schema
from coordinator.store.tables import metadata
from protos.terms import ArtefactRef, Phase, ReportReply, RoundId

ROOT = Path(__file__).parents[2]
TOKEN = TokenRow(
    token_id="t1",
    secret_sha256=b"\x00\xff" * 16,
    role="site",
    member_id="münchen",
    modalities=("flair", "t1"),
    approval=True,
    created=1234567890.123456,
    expires=1e10 + 0.1,
)
REQUEST = EnrolmentRequest(
    certificate_request_pem=b"pem\n", identity_public_key=b"\x00\x01", modalities=("t1",), software="1 \u2028 'x' \"y\""
)
MEMBER = MemberRow(
    role="site",
    member_id="a",
    modalities=(),
    identity_public_key=b"",
    state=MemberState.ENROLLED,
    software="0.1",
    enrolled=1.0,
    serial="ab",
    certificate_expires=2.0,
)
RUN = RunRow(
    run="r",
    name="A run",
    method="fedmepd",
    created=5.0,
    ended=None,
    status="running",
    configuration_toml="a = 1\n",
    state='{"x": "\\u0000"}',
)
REF = ArtefactRef(sha256="a" * 64, size=1 << 40)
ROUND = RoundRow(
    round=RoundId(run="r", round_number=1), phase=Phase.TRAINING, began=1.5, ended=None, reason="", detail="{}"
)
MODEL = ModelRow(run="r", round_number=0, model=REF, created=3.0, contributors=("a", "b"), missing=())
REPORT = LastReport(
    sequence=1 << 40,
    body_sha256=b"\x01" * 32,
    reply=ReportReply(sequence=1 << 40, in_round=False, message="no"),
)

# Begins a unit of work on the URL in argv, says so, and waits to be killed.
WRITER = """
import sys
from coordinator.store import open_store
from tests.coordinator.store_suite import RUN
store = open_store(sys.argv[1])
with store.transaction() as transaction:
    transaction.put_run(RUN)
    transaction.revoke_serial("99", 1.0)
    print("in the middle", flush=True)
    sys.stdin.read()
"""


def audit_row(sequence: int) -> AuditRow:
    return AuditRow(
        sequence=sequence,
        at=1700000000.123,
        actor="coordinator",
        action="round.done",
        subject="r/1",
        outcome="ok",
        details={"b": "2\x00", "a": "ä"},
        previous=b"\x00" * 32,
        hash=bytes([sequence % 256]) * 32,
    )


class StoreSuite:
    @pytest.fixture
    def opened(self, url: str) -> Iterator[Callable[[], SqlStore]]:
        stores: list[SqlStore] = []

        def make() -> SqlStore:
            stores.append(open_store(url, patience_s=20))
            return stores[-1]

        yield make
        for each in stores:
            each.close()

    @pytest.fixture
    def store(self, opened: Callable[[], SqlStore]) -> SqlStore:
        return opened()

    # -- records ----------------------------------------------------------------------------------------------------

    def test_tokens_come_back_as_they_were_oldest_first(self, store: SqlStore) -> None:
        used = replace(
            TOKEN, token_id="t0", created=1.0, state=TokenState.USED, request=REQUEST, certificate_chain_pem=b"c"
        )
        with store.transaction() as transaction:
            transaction.put_token(TOKEN)
            transaction.put_token(used)
        with store.transaction() as transaction:
            assert transaction.tokens() == (used, TOKEN)
            assert transaction.token("t1") == TOKEN
            transaction.put_token(replace(used, token_id="t1"))
            assert transaction.token("t1") == replace(used, token_id="t1")

    def test_members_come_back_by_role_and_id(self, store: SqlStore) -> None:
        members = [replace(MEMBER, role=role, member_id=name) for role in ("site", "admin") for name in ("b", "B", "a")]
        gone = replace(MEMBER, member_id="c", state=MemberState.REVOKED, reason="lost key", last_seen=7.5)
        with store.transaction() as transaction:
            for member in [*members, gone]:
                transaction.put_member(member)
        with store.transaction() as transaction:
            found = transaction.members()
            assert transaction.member("site", "c") == gone
        assert found == tuple(sorted([*members, gone], key=lambda m: (m.role, m.member_id)))

    def test_members_are_touched_and_unknown_ones_ignored(self, store: SqlStore) -> None:
        with store.transaction() as transaction:
            transaction.put_member(MEMBER)
            transaction.touch_members({("site", "a"): 9.25, ("site", "nobody"): 1.0})
            transaction.touch_members({})
        with store.transaction() as transaction:
            assert transaction.members() == (replace(MEMBER, last_seen=9.25),)

    def test_a_check_of_room_keeps_nothing_but_its_time(self, store: SqlStore) -> None:
        with store.transaction() as transaction:
            assert transaction.last_check() is None
            transaction.check_room(1.5)
        with store.transaction() as transaction:
            transaction.check_room(2.5)
        with store.transaction() as transaction:
            assert transaction.last_check() == 2.5
        with store.connection() as connection:
            assert connection.exec_driver_sql("SELECT name, length(padding) FROM checks").all() == [("room", 0)]

    def test_serials_are_revoked_once(self, store: SqlStore) -> None:
        with store.transaction() as transaction:
            assert transaction.revoked_serials() == frozenset()
            transaction.revoke_serial("1f", 1.0)
            transaction.revoke_serial("1f", 2.0)
            transaction.revoke_serial("2f", 2.0)
            assert transaction.revoked_serials() == {"1f", "2f"}

    def test_membership_lists_only_grow_newer(self, store: SqlStore) -> None:
        with store.transaction() as transaction:
            assert transaction.membership() is None
            transaction.put_membership(3, b"three", 1.0)
        for version in (3, 2):
            with pytest.raises(ConflictError, match="higher version"), store.transaction() as transaction:
                transaction.put_membership(version, b"other", 2.0)
        with store.transaction() as transaction:
            assert transaction.membership() == b"three"
            transaction.put_membership(10, b"ten", 3.0)
            assert transaction.membership() == b"ten"

    def test_runs_come_back_oldest_first(self, store: SqlStore) -> None:
        older = replace(RUN, run="z", created=4.0, ended=6.0, status="done")
        with store.transaction() as transaction:
            transaction.put_run(RUN)
            transaction.put_run(older)
            transaction.put_run(replace(RUN, state="new"))
        with store.transaction() as transaction:
            assert transaction.runs() == (older, replace(RUN, state="new"))
            assert transaction.runs(newest=1) == (replace(RUN, state="new"),)
            assert transaction.runs(newest=3) == transaction.runs()
            assert transaction.run("z") == older

    def test_rounds_come_back_by_number_and_attempt(self, store: SqlStore) -> None:
        ids = [RoundId(run="r", round_number=n, attempt=a) for n, a in ((1, 1), (1, 2), (2, 1), (10, 1))]
        made = [replace(ROUND, round=each) for each in ids]
        with store.transaction() as transaction:
            transaction.put_run(RUN)
            for record in reversed(made):
                transaction.put_round(record)
            made[0] = replace(made[0], phase=Phase.FAILED, ended=2.0, reason="quorum")
            transaction.put_round(made[0])
        with store.transaction() as transaction:
            assert transaction.rounds("r") == tuple(made)
            assert transaction.rounds("other") == ()

    def test_the_newest_rounds_come_page_by_page(self, store: SqlStore) -> None:
        ids = [RoundId(run="r", round_number=n, attempt=a) for n, a in ((1, 1), (1, 2), (2, 1), (10, 1))]
        with store.transaction() as transaction:
            transaction.put_run(RUN)
            for each in ids:
                transaction.put_round(replace(ROUND, round=each))
        with store.transaction() as transaction:
            assert [row.round for row in transaction.rounds("r", newest=2)] == ids[2:]
            assert [row.round for row in transaction.rounds("r", newest=2, before=ids[2])] == ids[:2]
            assert [row.round for row in transaction.rounds("r", newest=2, before=ids[1])] == ids[:1]
            assert transaction.rounds("r", newest=2, before=ids[0]) == ()
            assert len(transaction.rounds("r", before=ids[3])) == 3

    def test_the_last_run_is_the_one_that_was_started_last(self, store: SqlStore) -> None:
        with store.transaction() as transaction:
            assert transaction.last_run() is None
            assert transaction.run_ids() == frozenset()
            transaction.put_run(replace(RUN, run="z", created=6.0))
            transaction.put_run(RUN)
            assert transaction.last_run() == replace(RUN, run="z", created=6.0)
            assert transaction.run_ids() == {"r", "z"}

    def test_details_go_oldest_first_and_what_happened_stays(self, store: SqlStore) -> None:
        ids = [RoundId(run=run, round_number=n, attempt=a) for run in "rs" for n, a in ((1, 1), (1, 2), (2, 1), (3, 1))]
        with store.transaction() as transaction:
            transaction.put_run(RUN)
            transaction.put_run(replace(RUN, run="s"))
            for each in ids:
                transaction.put_round(replace(ROUND, round=each, phase=Phase.FAILED, ended=2.0, reason="quorum"))
                transaction.put_input(each, "a", REF)
                transaction.put_step(each, "a", "shared", b"x")
        with store.transaction() as transaction:
            assert transaction.forget_details("r", 2, 2) == 2
            assert [row.pruned for row in transaction.rounds("r")] == [True, True, False, False]
            assert transaction.forget_details("r", 2, 10) == 1
            assert transaction.forget_details("r", 2, 10) == 0
        with store.transaction() as transaction:
            gone = replace(ROUND, round=ids[0], phase=Phase.FAILED, ended=2.0, reason="quorum", detail="")
            assert transaction.rounds("r")[0] == gone
            assert [row.pruned for row in transaction.rounds("r")] == [True, True, True, False]
            assert not any(row.pruned for row in transaction.rounds("s"))
            assert [len(transaction.inputs(each)) for each in ids] == [0, 0, 0, 1, 1, 1, 1, 1]
            assert [len(transaction.steps(each)) for each in ids] == [0, 0, 0, 1, 1, 1, 1, 1]

    def test_runs_that_ended_long_ago_are_named_while_they_have_details(self, store: SqlStore) -> None:
        with store.transaction() as transaction:
            for run, ended in (("late", 30.0), ("early", 10.0), ("going on", None), ("without rounds", 5.0)):
                transaction.put_run(replace(RUN, run=run, ended=ended))
                if run != "without rounds":
                    transaction.put_round(replace(ROUND, round=RoundId(run=run, round_number=1)))
            assert transaction.runs_with_details(40.0, 9) == ("early", "late")
            assert transaction.runs_with_details(40.0, 1) == ("early",)
            assert transaction.runs_with_details(30.0, 9) == ("early",)
            transaction.forget_details("early", 1, 9)
            assert transaction.runs_with_details(40.0, 9) == ("late",)

    def test_expired_tokens_go_and_those_that_wait_for_a_person_stay(self, store: SqlStore) -> None:
        tokens = {
            "open": replace(TOKEN, token_id="open", expires=1.0),
            "used": replace(TOKEN, token_id="used", expires=1.0, state=TokenState.USED),
            "awaiting": replace(TOKEN, token_id="awaiting", expires=1.0, state=TokenState.AWAITING, request=REQUEST),
            "young": replace(TOKEN, token_id="young", expires=3.0),
        }
        with store.transaction() as transaction:
            for token in tokens.values():
                transaction.put_token(token)
            assert transaction.forget_tokens(2.0, 1) == 1
            assert transaction.forget_tokens(2.0, 9) == 1
            assert {token.token_id for token in transaction.tokens()} == {"awaiting", "young"}

    def test_models_come_back_by_run_and_round(self, store: SqlStore) -> None:
        made = [replace(MODEL, run=run, round_number=n) for run in ("r", "s") for n in (1, 2)]
        with store.transaction() as transaction:
            transaction.put_run(RUN)
            transaction.put_run(replace(RUN, run="s"))
            for model in reversed(made):
                transaction.put_model(model)
            made[0] = replace(made[0], kept=False)
            transaction.put_model(made[0])
            made[3] = replace(made[3], promoted=7.5)
            transaction.put_model(made[3])
        with store.transaction() as transaction:
            assert transaction.models() == tuple(made)
            assert transaction.models("s") == tuple(made[2:])
            assert transaction.kept_models() == tuple(made[1:])
            assert transaction.kept_models("r") == (made[1],)
            assert transaction.last_models(None, newest=3) == tuple(made[1:])
            assert transaction.last_models(None, newest=9, before=("s", 1)) == tuple(made[:2])
            assert transaction.last_models(None, newest=9, before=("s", 2), kept=True) == tuple(made[1:3])
            assert transaction.last_models("r", newest=1, before=("r", 2)) == (made[0],)
            assert transaction.models_between("s", 1, 1) == (made[2],)
            assert transaction.models_between("s", 1, 2) == tuple(made[2:])
            assert transaction.models_between("s", 3, 9) == ()

    def test_the_last_report_is_replaced(self, store: SqlStore) -> None:
        with store.transaction() as transaction:
            assert transaction.last_report("a") is None
            transaction.put_last_report("a", replace(REPORT, sequence=1))
            transaction.put_last_report("a", REPORT)
        with store.transaction() as transaction:
            assert transaction.last_report("a") == REPORT

    def test_inputs_are_noted_once_and_forgotten_by_round(self, store: SqlStore) -> None:
        first, second = ROUND.round, replace(ROUND.round, attempt=2)
        with store.transaction() as transaction:
            transaction.put_run(RUN)
            for _ in range(2):
                transaction.put_input(first, "a", REF)
            transaction.put_input(first, "b", REF)
            transaction.put_input(second, "a", replace(REF, size=1))
        with pytest.raises(ConflictError, match="another input"), store.transaction() as transaction:
            transaction.put_input(first, "a", replace(REF, size=2))
        with store.transaction() as transaction:
            assert transaction.inputs(first) == {"a": REF, "b": REF}
            transaction.forget_inputs(first)
            assert transaction.inputs(first) == {}
            assert transaction.inputs(second) == {"a": replace(REF, size=1)}

    def test_audit_records_follow_without_gaps(self, store: SqlStore) -> None:
        with store.transaction() as transaction:
            assert transaction.last_audit() is None
        for wrong in (1, -1):
            with pytest.raises(ConflictError, match="does not follow"), store.transaction() as transaction:
                transaction.append_audit(audit_row(wrong))
        made = [audit_row(sequence) for sequence in range(5)]
        with store.transaction() as transaction:
            for row in made:
                transaction.append_audit(row)
        for wrong in (4, 6, 0):
            with pytest.raises(ConflictError, match="does not follow"), store.transaction() as transaction:
                transaction.append_audit(audit_row(wrong))
        with store.transaction() as transaction:
            assert transaction.last_audit() == made[-1]
            assert transaction.last_audit_of(made[0].action) == made[-1]
            assert transaction.last_audit_of("nothing.such") is None
            assert list(made[0].details) == list(transaction.audit(after=-1, limit=1)[0].details)
            assert transaction.audit(after=1, limit=2) == tuple(made[2:4])
            assert transaction.audit(after=4, limit=9) == ()

    @pytest.mark.parametrize("ask", [lambda t: t.token("x"), lambda t: t.member("site", "x"), lambda t: t.run("x")])
    def test_what_is_not_there_is_named(self, store: SqlStore, ask: Callable[[Transaction], object]) -> None:
        with pytest.raises(NotFoundError, match="'x'"), store.transaction() as transaction:
            ask(transaction)

    def test_a_round_of_no_run_is_a_conflict(self, store: SqlStore) -> None:
        with pytest.raises(ConflictError, match="put the run first"), store.transaction() as transaction:
            transaction.put_round(ROUND)

    def test_messages_of_steps_come_back_as_they_were_until_they_are_forgotten(self, store: SqlStore) -> None:
        first, second = ROUND.round, replace(ROUND.round, attempt=2)
        with store.transaction() as transaction:
            transaction.put_run(RUN)
            assert transaction.steps(first) == {}
            for _ in range(2):  # again with the same content changes nothing
                transaction.put_step(first, "a", "shared", b"\x00\xff")
            transaction.put_step(first, "b", "shared", b"")
            transaction.put_step(first, "a", "advertised", b"k" * 100_000)
            transaction.put_step(second, "a", "shared", b"2")
        with store.transaction() as transaction:
            assert transaction.steps(first) == {
                "shared": {"a": b"\x00\xff", "b": b""},
                "advertised": {"a": b"k" * 100_000},
            }
            transaction.forget_steps(first)
            assert (transaction.steps(first), transaction.steps(second)) == ({}, {"shared": {"a": b"2"}})

    def test_another_message_of_a_step_is_a_conflict(self, store: SqlStore) -> None:
        with store.transaction() as transaction:
            transaction.put_run(RUN)
            transaction.put_step(ROUND.round, "a", "shared", b"1")
        with pytest.raises(ConflictError, match="a has another message"), store.transaction() as transaction:
            transaction.put_step(ROUND.round, "a", "shared", b"2")

    # -- units of work ----------------------------------------------------------------------------------------------

    def test_nothing_remains_of_a_unit_that_raises(self, store: SqlStore) -> None:
        def fail() -> None:
            with store.transaction() as transaction:
                transaction.put_run(RUN)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        with store.transaction() as transaction:
            assert transaction.runs() == ()

    def test_what_is_committed_is_there_after_reopening(self, opened: Callable[[], SqlStore]) -> None:
        store = opened()
        with store.transaction() as transaction:
            transaction.put_run(RUN)
        store.close()
        with opened().transaction() as transaction:
            assert transaction.runs() == (RUN,)

    def test_nothing_is_seen_of_an_open_unit(self, opened: Callable[[], SqlStore]) -> None:
        seen: list[tuple[RunRow, ...]] = []
        store, other = opened(), opened()
        entered = threading.Event()

        def look() -> None:
            entered.set()
            with other.transaction() as transaction:
                seen.append(transaction.runs())

        thread = threading.Thread(target=look)
        with store.transaction() as transaction:
            transaction.put_run(RUN)
            thread.start()
            assert entered.wait(10)
            thread.join(0.2)
            assert seen == []
        thread.join(20)
        assert seen == [(RUN,)]

    @pytest.mark.parametrize("stores", [1, 2])
    def test_units_of_work_of_threads_and_stores_do_not_overlap(
        self, opened: Callable[[], SqlStore], stores: int
    ) -> None:
        each, threads = 15, 4
        pool = [opened() for _ in range(stores)]

        def append(store: SqlStore) -> None:
            for _ in range(each):
                with store.transaction() as transaction:
                    last = transaction.last_audit()
                    transaction.append_audit(audit_row(0 if last is None else last.sequence + 1))

        workers = [threading.Thread(target=append, args=(pool[i % stores],)) for i in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        with pool[0].transaction() as transaction:
            assert len(transaction.audit(after=-1, limit=1000)) == each * threads

    def test_a_unit_may_be_used_from_another_thread(self, store: SqlStore) -> None:
        with store.transaction() as transaction:
            thread = threading.Thread(target=transaction.put_run, args=(RUN,))
            thread.start()
            thread.join(10)
        with store.transaction() as transaction:
            assert transaction.runs() == (RUN,)

    def test_a_unit_within_a_unit_fails_instead_of_hanging(self, url: str) -> None:
        store = open_store(url, patience_s=0.1)
        with (
            pytest.raises(StorageError, match="busy"),
            store.transaction(),
            store.transaction(),
        ):
            pass
        store.close()

    def test_a_writer_killed_in_mid_unit_leaves_the_old_state(self, url: str, opened: Callable[[], SqlStore]) -> None:
        store = opened()
        with store.transaction() as transaction:
            transaction.revoke_serial("1", 1.0)
        command = [sys.executable, "-c", WRITER, url]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"in the middle\n"
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait(10) == -signal.SIGKILL
            with suppress(BrokenPipeError):
                process.communicate()
        with store.transaction() as transaction:
            assert transaction.runs() == ()
            assert transaction.revoked_serials() == {"1"}

    # -- the schema -------------------------------------------------------------------------------------------------

    def test_two_coordinators_may_open_an_empty_database_at_once(self, opened: Callable[[], SqlStore]) -> None:
        threads = [threading.Thread(target=opened) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        with opened().transaction() as transaction:
            assert transaction.runs() == ()

    def test_a_newer_schema_is_refused(self, store: SqlStore, opened: Callable[[], SqlStore]) -> None:
        with store.connection() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(StorageError, match=r"9999.*update the coordinator"):
            opened()

    def test_tables_of_others_are_left_alone(self, store: SqlStore, opened: Callable[[], SqlStore]) -> None:
        with store.connection() as connection:
            connection.execute(text("DROP TABLE alembic_version"))
        with pytest.raises(StorageError, match="other software"):
            opened()

    def test_the_migrations_make_the_tables_that_the_code_knows(self, store: SqlStore) -> None:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        with store.connection() as connection:
            metadata.drop_all(connection)
            connection.execute(text("DROP TABLE alembic_version"))
            schema._migrate(connection)
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, metadata) == []

    def test_a_database_of_an_older_coordinator_is_brought_up_to_date(
        self, store: SqlStore, opened: Callable[[], SqlStore]
    ) -> None:
        with store.connection() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
            connection.execute(text("DROP TABLE step_messages"))
            connection.execute(text("DROP TABLE checks"))
            connection.execute(text("ALTER TABLE models DROP COLUMN promoted"))
        with opened().connection() as connection:
            assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == schema.VERSION
            assert connection.execute(text("SELECT count(*) FROM step_messages")).scalar_one() == 0
            assert connection.execute(text("SELECT count(*) FROM checks")).scalar_one() == 0
            assert connection.execute(text("SELECT count(promoted) FROM models")).scalar_one() == 0
