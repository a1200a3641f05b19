"""Methods are switches over the same rounds; the table says what each of them shares."""

from __future__ import annotations

import pytest

from fedmepd.errors import ConfigError
from fedmepd.methods import METHODS, get_method

# name: (encoders averaged, decoder, anchors, one shared network, pooled patients)
TABLE = {
    "local": (False, "local", False, False, False),
    "centralised": (False, "local", False, False, True),
    "fedavg": (True, "local", False, True, False),
    "fedavg-encoders": (True, "federated", False, False, False),
    "fedmema": (True, "local", True, False, False),
    "fedmepd": (True, "partial", True, False, False),
    "ablation-encoders": (True, "local", False, False, False),
    "ablation-partial": (True, "partial", False, False, False),
    "ablation-single-anchor": (True, "partial", True, False, False),
}


def test_every_method_of_the_comparison_and_the_ablation_is_there():
    assert {name: (m.encoders, m.decoder, m.clusters != 0, m.shared, m.pooled) for name, m in METHODS.items()} == TABLE


def test_only_methods_that_exchange_something_are_federated():
    assert {name for name, method in METHODS.items() if not method.federated} == {"local", "centralised"}


def test_single_anchor_differs_from_the_whole_method_by_the_number_of_anchors_alone():
    single, whole = get_method("ablation-single-anchor"), get_method("fedmepd")
    assert (single.clusters, whole.clusters) == (1, None)
    assert (single.encoders, single.decoder, single.shared) == (whole.encoders, whole.decoder, whole.shared)


def test_methods_have_distinct_titles_for_people():
    assert len({method.title for method in METHODS.values()}) == len(METHODS)


def test_an_unknown_method_lists_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        get_method("fedprox")
    assert "unknown method 'fedprox'" in str(caught.value)
    assert all(name in str(caught.value) for name in METHODS)
