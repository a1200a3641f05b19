"""What doctors say, in one line or in several: the remedy stands by itself, and what is not well is counted."""

from __future__ import annotations

from protos.findings import counted, fail, ok, skip, warn

DISK = fail("disk", "3 GiB free of 100 GiB, and rounds need 12 GiB", "free some, or set another folder for the cache")


def test_a_remedy_has_lines_of_its_own_below_what_was_found() -> None:
    assert DISK.lines(200) == [
        "disk: 3 GiB free of 100 GiB, and rounds need 12 GiB",
        "-> free some, or set another folder for the cache",
    ]
    assert DISK.lines(30) == [
        "disk: 3 GiB free of 100 GiB,",
        "and rounds need 12 GiB",
        "-> free some, or set another",
        "   folder for the cache",
    ]
    assert ok("disk", "plenty").lines(30) == ["disk: plenty"]


def test_the_lines_say_what_the_line_says_and_no_controls() -> None:
    assert " ".join(DISK.lines(200)) == DISK.line
    (line,) = skip("case a\x1b[31m", "no\nt1").lines(80)
    assert line == "case a?[31m: no t1"


def test_what_is_not_well_is_counted_in_words() -> None:
    assert counted([ok("a", "b"), skip("a", "b")]) == "nothing fails, no warnings"
    assert counted([DISK, warn("a", "b")]) == "1 thing fails, 1 warning"
    assert counted([DISK, DISK, warn("a", "b"), warn("a", "b")]) == "2 things fail, 2 warnings"
