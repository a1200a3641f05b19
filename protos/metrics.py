"""How a service states its metrics: one catalogue each, from which collectors and `ops/METRICS.md` are made.

A catalogue is data. A `Book` of it makes what is exposed, so that nothing is exposed that the catalogue does not name,
and labels and types are those that it states. Names follow Prometheus: base units, `_total` for counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

Labels = tuple[str, ...]
Samples = Mapping[Labels, float] | float | None
Row = tuple[str, Samples]
Part = Callable[[], Iterable[Row]]
_MOST_SIGNS = 300
_TOTAL = "_total"
disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter


class Kind(StrEnum):
    """What a metric is to Prometheus."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric of a service.

    Attributes:
        name: As it is exposed, a counter's with `_total`.
        help: What it means, in a sentence; also when it is absent.
        kind: Its type.
        labels: Its labels: of each the values, or words about them where they are not known beforehand.
        unit: Of its values, in words; empty for counts.
        group: What it belongs to, for the reference.
        buckets: Upper bounds of a histogram.
    """

    name: str
    help: str
    kind: Kind = Kind.GAUGE
    labels: Mapping[str, Sequence[str] | str] = field(default_factory=dict)
    unit: str = ""
    group: str = ""
    buckets: tuple[float, ...] = ()

    @property
    def base(self) -> str:
        """The name as prometheus_client wants it: it appends `_total` itself."""
        return self.name.removesuffix(_TOTAL) if self.kind is Kind.COUNTER else self.name


class Book:
    """The metrics of a catalogue by name.

    Args:
        prefix: Of all names; names are given without it.
        catalogue: The metrics.
    """

    def __init__(self, prefix: str, catalogue: Iterable[Metric]) -> None:
        self._prefix, self._metrics = prefix, {metric.name: metric for metric in catalogue}

    def metric(self, name: str) -> Metric:
        """Return a metric by its name without the prefix."""
        return self._metrics[self._prefix + name]

    def family(self, name: str, samples: Samples) -> Family:
        """Return a gauge or counter as it is now, for a collector.

        Args:
            name: Without the prefix.
            samples: Values by those of the labels, in the catalogue's order; one value of a metric without labels; None
                if it is not known now.
        """
        metric = self.metric(name)
        kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
        family = kind(metric.base, metric.help, labels=tuple(metric.labels))
        found = {(): samples} if isinstance(samples, int | float) else samples or {}
        for labels, value in found.items():
            family.add_metric(labels, value)
        return family

    def counter(self, name: str, registry: CollectorRegistry) -> Counter:
        """Return a counter of events; where all values of its labels are known, it begins with zeros."""
        metric = self.metric(name)
        made = Counter(metric.base, metric.help, tuple(metric.labels), registry=registry)
        values = next(iter(metric.labels.values()), "")
        if len(metric.labels) == 1 and not isinstance(values, str):
            for value in values:
                made.labels(value)
        return made

    def histogram(self, name: str, registry: CollectorRegistry) -> Histogram:
        """Return a histogram of events."""
        metric = self.metric(name)
        return Histogram(metric.base, metric.help, tuple(metric.labels), registry=registry, buckets=metric.buckets)


class PartedCollector(Collector):
    """Reads a service's state part by part when somebody asks; what cannot be read is left out, and the rest is told.

    Args:
        book: The metrics.
        unreadable: Told a part's name and what is wrong with it, once for each part.
    """

    def __init__(self, book: Book, unreadable: Callable[[str, str], object]) -> None:
        self._book, self._unreadable = book, unreadable
        self._broken: set[str] = set()

    def parts(self) -> Sequence[Part]:
        """Return what there is to read: each part gives names without the prefix, with their samples."""
        raise NotImplementedError

    def describe(self) -> Iterable[Family]:
        """Say nothing beforehand: what is there depends on what is known."""
        return ()

    def collect(self) -> Iterator[Family]:
        """Yield every metric of the parts; of one that is not known, only its name."""
        for part in self.parts():
            name = getattr(part, "__name__", "part").strip("_")
            try:
                rows = list(part())
            except Exception as error:  # noqa: BLE001  whatever it is, the rest is told
                if name not in self._broken:
                    self._broken.add(name)
                    self._unreadable(name, str(error)[:_MOST_SIGNS])
                continue
            for metric, samples in rows:
                yield self._book.family(metric, samples)


def states(present: str, values: Iterable[str]) -> dict[Labels, float]:
    """Return a metric that is 1 for the present one of a few values, and 0 for the others."""
    return {(value,): float(value == present) for value in values}
