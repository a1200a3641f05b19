from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmepd.cohorts.geometry import Geometry, brain_box, crop, restore


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(1, 40), first=st.integers(0, 39), length=st.integers(1, 40), margin=st.integers(0, 5),
    least=st.sampled_from([8, 16, 32]),
)  # fmt: skip
def test_box_holds_the_brain_and_is_large_enough(size, first, length, margin, least):
    first = first % size
    brain = np.zeros((size, 3, 3), dtype=bool)
    brain[first : first + length, 1, 1] = True
    start, stop = brain_box(brain, margin=margin, min_size=least)[0]
    inside = np.flatnonzero(brain[:, 1, 1])
    assert start <= inside[0]
    assert stop > inside[-1]
    assert stop - start >= least
    if size >= least:
        assert start >= 0
        assert stop <= size
    else:
        assert start <= 0
        assert stop >= size


def test_crop_beyond_the_array_is_padded_with_zeros():
    array = np.ones((2, 3, 3, 3), dtype=np.float32)
    cut = crop(array, ((-1, 4), (0, 3), (1, 6)))
    assert cut.shape == (2, 5, 3, 5)
    assert cut.sum() == 2 * 3 * 3 * 2


def test_geometry_survives_json_and_refuses_another_shape():
    geometry = Geometry(
        shape=(4, 4, 4),
        affine=tuple(tuple(row) for row in np.eye(4).tolist()),
        orientation=((1, -1), (0, 1), (2, 1)),
        grid_shape=(4, 4, 4),
        scale=(1.0, 1.0, 1.0),
        offset=(0.0, 0.0, 0.0),
        box=((0, 4), (-1, 5), (1, 3)),
    )
    assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry
    with pytest.raises(ValueError, match="has shape"):
        restore(np.zeros((4, 4, 4), dtype=np.uint8), geometry)
