"""What was run, how long it took, and what the words mean: the parts of a report that need no statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from fedmepd.report.names import in_order, method_title
from fedmepd.report.run import Run

_MINUTE, _HOUR = 60, 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingRow:
    """Seconds of one member: per round and in all, by method; empty text where it did not train."""

    member: str
    per_round: tuple[str, ...]
    total: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Training time by member and method.

    Attributes:
        methods: Columns.
        rows: Members; the last row is their sum.
    """

    methods: tuple[str, ...]
    rows: tuple[TimingRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregation:
    """What the aggregation of one method opened, on average over the rounds."""

    method: str
    open: float
    contributors: float
    fewest: int


def status(run: Run) -> str | None:
    """Say what is missing of an interrupted run; None where it is finished."""
    if run.facts.finished is not None:
        return None
    reached = [
        f"{method_title(method.name)} reached round {method.metrics.last_round} of {run.facts.rounds}"
        if method.metrics.last_round is not None
        else f"{method_title(method.name)} has not begun"
        for method in run.methods
    ]
    return f"This run is not finished: {'; '.join(reached)}. What is not there yet is left out below."


def date(moment: str) -> str:
    """Return an ISO moment as day and minute; what is no ISO moment is returned as it is."""
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    return f"{parsed:%d %B %Y, %H:%M}".lstrip("0")


def duration(seconds: float) -> str:
    """Return a duration with the precision that a person wants."""
    if seconds < 10:  # noqa: PLR2004  below ten seconds a tenth matters
        return f"{seconds:.1f} s"
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        minutes, rest = divmod(round(seconds), _MINUTE)
        return f"{minutes} min {rest} s"
    hours, rest = divmod(round(seconds / _MINUTE), _MINUTE)
    return f"{hours} h {rest} min"


def timing(run: Run) -> Timing | None:
    """Return the training times; None where nothing was trained."""
    methods = [name for name in in_order(run.facts.methods) if _seconds(run, name, None)]
    if not methods:
        return None
    members: list[str | None] = [member.id for member in run.facts.members]
    rows = [_timing_row(run, methods, member) for member in [*members, None]]
    return Timing(methods=tuple(methods), rows=tuple(row for row in rows if any(row.total)))


def aggregations(run: Run) -> list[Aggregation]:
    """Return how much the methods' aggregations opened."""
    found = [(method.name, method.metrics.aggregate) for method in run.methods if method.metrics.aggregate]
    return [
        Aggregation(
            method=name,
            open=sum(line.open for line in lines) / len(lines),
            contributors=sum(line.contributors for line in lines) / len(lines),
            fewest=min(line.contributors for line in lines),
        )
        for name, lines in found
    ]


def glossary(run: Run) -> list[tuple[str, str]]:
    """Return the terms of this report, a line each."""
    regions = [(r.name, f"{r.title}: {', '.join(run.task.classes[c] for c in r.classes)}.") for r in run.task.regions]
    return [
        *_TERMS,
        *regions,
        *((method_title(name), _METHODS[name]) for name in run.facts.methods if name in _METHODS),
    ]


_TERMS = (
    ("Dice", "Overlap of prediction and truth, from 0 (none) to 1 (the same voxels); 1 where both are empty."),
    (
        "HD95",
        "95th percentile of the distances between the surfaces, in mm; 0 where both are empty, 373.13 where one is.",
    ),
    (
        "95 % interval",
        "Bootstrap over test cases: where the mean would fall with other such patients, not with another seed.",
    ),
    ("server", "The lead hospital: labelled patients with all modalities."),
    ("site", "A hospital with labelled patients and its own subset of the modalities; its data stay there."),
    ("modality", "One kind of image, such as FLAIR or T1ce (T1 with contrast agent)."),
    ("round", "Sites train, their updates are aggregated, the server trains and sends out the next model."),
    ("personal filter", "A decoder filter whose local and global changes kept disagreeing; the site keeps its own."),
    ("anchor", "Mean feature of a class in a group of full-modal patients; sites calibrate their features with it."),
)
_METHODS = {
    "fedmepd": "One encoder per modality is federated; the decoder is federated in part; anchors calibrate sites.",
    "local": "Every member trains alone on its own patients, with the same budget.",
    "centralised": "All patients in one place: what federation gives up for privacy.",
    "fedavg": "One shared network for all modalities, absent ones zero, plainly averaged.",
    "fedavg-encoders": "One encoder per modality and one decoder, wholly averaged.",
    "fedmema": "Federated modality encoders, a decoder of each site's own, anchors.",
}


def _seconds(run: Run, method: str, member: str | None) -> Sequence[float]:
    record = next(record for record in run.methods if record.name == method)
    return [line.seconds for line in record.metrics.train if member in {None, line.member}]


def _timing_row(run: Run, methods: Sequence[str], member: str | None) -> TimingRow:
    times = [_seconds(run, method, member) for method in methods]
    rounds = [len({line.round for line in r.metrics.train}) for m in methods for r in run.methods if r.name == m]
    # the last row is a whole round of all members, one after the other
    counts = [len(own) for own in times] if member else rounds
    return TimingRow(
        member=member or "all, one after the other",
        per_round=tuple(duration(sum(own) / n) if own and n else "" for own, n in zip(times, counts, strict=True)),
        total=tuple(duration(sum(own)) if own else "" for own in times),
    )
