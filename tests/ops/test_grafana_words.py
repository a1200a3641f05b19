"""Values and series in words, as Grafana writes them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from matplotlib.figure import Figure

from ops.grafana.drawing import Series, draw
from ops.grafana.panels import Kind, Panel, Query
from ops.grafana.queries import filled
from ops.grafana.words import colour, legend, text_of, value


@pytest.mark.parametrize(
    ("number", "unit", "said"),
    [
        (0.0, "s", "0 s"),
        (0.0123, "s", "12.3 ms"),
        (90.0, "s", "1.5 min"),
        (-7200.0, "s", "-2 hours"),
        (90 * 86400.0, "s", "90 days"),
        (3652 * 86400.0, "s", "10 years"),
        (512.0, "bytes", "512 B"),
        (3 * 1024.0**2, "bytes", "3 MiB"),
        (2048.0, "Bps", "2 KiB/s"),
        (0.8125, "percentunit", "81.2 %"),
        (1e-5, "sci", "1.0e-05"),
        (2.5, "reqps", "2.5 /s"),
        (1234.5678, "none", "1235"),
        (math.nan, "s", "-"),
    ],
)
def test_a_value_has_its_unit(number: float, unit: str, said: str) -> None:
    assert value(number, unit) == said


def test_digits_are_those_that_are_asked_for() -> None:
    assert value(3.0, "none", 0) == "3"


def test_a_legend_has_the_labels_of_its_series() -> None:
    assert legend("{{site}} up", {"site": "a"}) == "a up"
    assert legend("{{site}}", {}) == ""


def _defaults(**given: Any) -> dict[str, Any]:
    panel = Panel(kind=Kind.STAT, title="Sites", about="How many.", queries=(Query(expr="up", legend="up"),), **given)
    found: dict[str, Any] = panel.to_json(1, 0, 0)["fieldConfig"]["defaults"]
    return found


def test_a_word_stands_for_a_value_that_has_one() -> None:
    defaults = _defaults(texts={0: ("no", "red"), 1: ("yes", "green")})
    assert text_of(defaults, 1.0) == ("yes", "green")
    assert text_of(defaults, 2.0) == ("2", None)


def test_the_highest_threshold_that_is_reached_gives_the_colour() -> None:
    defaults = _defaults(thresholds=((0, "green"), (0.8, "yellow"), (1, "red")))
    assert [colour(defaults, each) for each in (-1.0, 0.8, 3.0)] == ["green", "yellow", "red"]
    assert colour(_defaults(), 1.0) is None


def test_variables_are_put_in_and_an_unknown_one_is_an_error() -> None:
    assert filled('rate(a{i="$instance"}[$__rate_interval])', {"instance": "c"}) == 'rate(a{i="c"}[1m])'
    with pytest.raises(KeyError):
        filled("$nobody", {})


@pytest.mark.parametrize("minutes", [0.1, 1.7, 8.0, 60.0, 360.0, 1440.0, 43200.0])
def test_marks_of_time_are_round_and_few(minutes: float) -> None:
    axes = Figure().add_subplot()
    end = 1_795_717_203.6
    series = [Series(name="a", query=0, labels={}, times=(end - 30, end), values=(1.0, 2.0))]
    panel = Panel(kind=Kind.LINES, title="Sites", about="How many.", queries=(Query(expr="up", legend="up"),))
    draw(axes, panel.to_json(1, 0, 0), series, (end - 60 * minutes, end))
    labels = [each.get_text() for each in axes.get_xticklabels()]
    assert 1 <= len(labels) <= 30 if minutes > 40_000 else 2 <= len(labels) <= 7
    assert all(labels)
