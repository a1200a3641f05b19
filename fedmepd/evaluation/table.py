"""A table of scores, one row per member, case and region, and its CSV and JSON forms.

Guarantees that what is read back equals what was written (to 6 decimals), that files appear whole or not at all, and
that a table read from a file has every region for every case. Computes nothing.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmepd.durable import write_text
from fedmepd.errors import RunError

_COLUMNS = ("member", "case", "region", "dice", "hd95")
_DECIMALS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseScore:
    """The score of one region in one case of one member.

    Attributes:
        member: Member of the federation whose case it is, such as `site-1`.
        case: Case id.
        region: Region name of the task.
        dice: Overlap in [0, 1].
        hd95: 95th percentile Hausdorff distance in mm; NaN where it was not measured.
    """

    member: str
    case: str
    region: str
    dice: float
    hd95: float


def write_scores_csv(path: Path, scores: Iterable[CaseScore]) -> None:
    """Write scores as CSV with the columns member, case, region, dice and hd95 (empty where not measured).

    Raises:
        RunError: If the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for score in scores:
        numbers = ("" if math.isnan(value) else f"{value:.{_DECIMALS}f}" for value in (score.dice, score.hd95))
        writer.writerow((score.member, score.case, score.region, *numbers))
    _write(path, text.getvalue())


def write_scores_json(path: Path, scores: Iterable[CaseScore]) -> None:
    """Write scores as a JSON list of objects; a distance that was not measured is null.

    Raises:
        RunError: If the file cannot be written.
    """
    _write(path, json.dumps(score_rows(scores), indent=1) + "\n")


def score_rows(scores: Iterable[CaseScore]) -> list[dict[str, str | float | None]]:
    """Return scores as plain data for JSON, with null for what was not measured."""
    return [
        {
            "member": score.member,
            "case": score.case,
            "region": score.region,
            "dice": None if math.isnan(score.dice) else round(score.dice, _DECIMALS),
            "hd95": None if math.isnan(score.hd95) else round(score.hd95, _DECIMALS),
        }
        for score in scores
    ]


def read_scores_csv(path: Path) -> tuple[CaseScore, ...]:
    """Read scores that `write_scores_csv` wrote.

    Raises:
        RunError: If the file cannot be read, has other columns, or a row is wrong, double or missing a region.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from error
    reader = csv.reader(io.StringIO(text))
    if tuple(next(reader, ())) != _COLUMNS:
        raise RunError(f"{path}, line 1: not a table of scores", remedy=f"its first line is {','.join(_COLUMNS)}")
    try:
        scores = tuple(_score(path, reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        raise RunError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    _check_complete(path, scores)
    return scores


def _score(path: Path, line: int, row: Sequence[str]) -> CaseScore:
    if len(row) != len(_COLUMNS):
        raise RunError(f"{path}, line {line}: {len(row)} columns instead of {len(_COLUMNS)}")
    member, case, region, dice, hd95 = row
    try:
        score = CaseScore(
            member=member, case=case, region=region, dice=float(dice), hd95=float(hd95) if hd95 else math.nan
        )
    except ValueError as error:
        raise RunError(f"{path}, line {line}: not a number ({error})") from error
    if not 0 <= score.dice <= 1 or score.hd95 < 0 or math.isinf(score.hd95):
        raise RunError(f"{path}, line {line}: Dice must lie in 0..1 and hd95 must be a distance of 0 mm or more")
    return score


def _check_complete(path: Path, scores: Sequence[CaseScore]) -> None:
    regions = {score.region for score in scores}
    seen: dict[tuple[str, str], set[str]] = {}
    for score in scores:
        of_case = seen.setdefault((score.member, score.case), set())
        if score.region in of_case:
            raise RunError(f"{path}: member {score.member}, case {score.case}, region {score.region} stands twice")
        of_case.add(score.region)
    for (member, case), of_case in seen.items():
        if of_case != regions:
            raise RunError(f"{path}: member {member}, case {case} lacks region {min(regions - of_case)}")


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})", remedy="choose a writable place") from error
