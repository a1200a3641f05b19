"""Copies of an audit log: each is verified, and each must begin with the one before."""

from __future__ import annotations

import pytest

from security import audit
from security.audit_exports import verify_file, verify_files
from security.errors import AuditError


def chain(now, *subjects, begin=()):
    made = list(begin)
    for subject in subjects:
        made.append(
            audit.append(
                made[-1] if made else None, at=now, actor="eve", action="act", subject=subject, outcome="accepted"
            )
        )
    return made


@pytest.fixture
def log(now):
    return chain(now, *"abcdef")


@pytest.fixture
def save(tmp_path):
    def saved(name, records):
        path = tmp_path / name
        path.write_text("".join(f"{audit.to_line(record)}\n" for record in records))
        return path

    return saved


def test_a_whole_file_gives_count_and_head(save, log):
    found = verify_file(save("a", log), expected_head=log[2].hash)
    assert (found.records, found.head) == (6, log[-1].hash)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda log: log[:2] + log[3:], "lacks the record 2"),
        (lambda log: [log[0], log[2], log[1], *log[3:]], "lacks the record 1"),
        (lambda log: log[:3] + log[2:], "record 2 stands there twice"),
        (lambda log: [*log[:3], log[1], *log[3:]], "record 1 stands in place 3"),
        (lambda log: [], "is empty"),
    ],
)
def test_damage_names_file_and_record(save, log, damage, match):
    path = save("a", damage(log))
    with pytest.raises(AuditError, match=f"^{path}.*{match}"):
        verify_file(path)


def test_a_torn_last_line_is_named(save, log):
    path = save("a", log)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(AuditError, match="record 5 breaks off"):
        verify_file(path)


def test_a_head_that_is_not_in_the_log_is_named(save, log):
    with pytest.raises(AuditError, match=f"lacks the record {'0' * 63}1"):
        verify_file(save("a", log), expected_head="0" * 63 + "1")


def test_copies_that_begin_with_the_ones_before_agree(save, log):
    paths = [save("1", log[:2]), save("2", log[:2]), save("3", log)]
    assert [one.records for one in verify_files(paths, expected_head=log[3].hash)] == [2, 2, 6]


def test_a_noted_head_must_be_in_the_last_copy(save, log):
    with pytest.raises(AuditError, match="lacks the record"):
        verify_files([save("1", log[:2]), save("2", log[:3])], expected_head=log[3].hash)


def test_a_fork_is_named_though_both_chains_are_whole(save, log, now):
    forked = chain(now, "x", "y", "z", "w", begin=log[:3])
    one, other = save("1", log), save("2", forked)
    for paths in ((one, other), (other, one)):
        with pytest.raises(AuditError, match="part at the record 3: the log was forked"):
            verify_files(paths)
    with pytest.raises(AuditError, match="part at the record 0"):
        verify_files([one, save("3", chain(now, "x"))])


def test_a_cut_tail_is_named(save, log):
    with pytest.raises(AuditError, match="ends before the record 4, which .* has: the tail was cut off") as caught:
        verify_files([save("1", log), save("2", log[:4])])
    assert "oldest first" in str(caught.value)


def test_a_fork_between_copies_that_are_not_neighbours_is_found(save, log, now):
    forked = chain(now, "x", "y", "z", "w", begin=log[:3])
    with pytest.raises(AuditError, match="forked"):
        verify_files([save("1", log), save("2", log), save("3", forked)])
