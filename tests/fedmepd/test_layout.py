"""The layout covers every federated value exactly once, in blocks that are the ones counted by hand."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmepd.layout import COMMON, Layout, build_layout
from fedmepd.model import Architecture, build

BRATS = ("flair", "t1ce", "t1", "t2")
NAMES = ("ct", "mr", "pet", "dwi", "us")
WIDTH = 4
CHANNELS = {level: WIDTH << (level - 1) for level in (1, 2, 3, 4)}


@cache
def network_shapes(modalities: tuple[str, ...], classes: int, *, shared: bool = False) -> dict[str, tuple[int, ...]]:
    """Trainable parameters of a network that has everything, LACCA included."""
    network = build(
        Architecture(
            modalities=modalities,
            own=modalities,
            classes=classes,
            width=WIDTH,
            calibration=None if shared else "residual",
            shared=shared,
        ),
        seed=0,
    )
    return {name: tuple(p.shape) for name, p in network.named_parameters() if p.requires_grad}


def layout_of(modalities=BRATS, classes=4, *, encoders=True, decoder=True) -> Layout:
    return build_layout(network_shapes(modalities, classes), modalities, encoders=encoders, decoder=decoder)


def segment_of(layout, name):
    return next(segment for segment in layout.segments if segment.name == name)


def numbered(shapes):
    """Parameters whose values are all different: 1, 2, 3, ... (exact in single precision)."""
    arrays, start = {}, 1
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        arrays[name] = np.arange(start, start + size, dtype=np.float32).reshape(shape)
        start += size
    return arrays


def gather_all(layout, arrays):
    return {s.name: (s.gather_plain(arrays), s.gather_filters(arrays)) for s in layout.segments}


def channels_last(array):
    return np.moveaxis(np.moveaxis(array, 1, -1).copy(), -1, 1) if array.ndim > 1 else array.copy()


def pieces_of(segment, tensor):
    return [piece for piece in segment.filters if piece.tensor == tensor]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(count=st.integers(1, 5), classes=st.integers(2, 5), encoders=st.booleans(), decoder=st.booleans())
def test_every_federated_value_is_in_the_vector_exactly_once(count, classes, encoders, decoder):
    modalities = NAMES[:count]
    shapes = network_shapes(modalities, classes)
    prefixes = ("encoders.",) * encoders + ("decoder.",) * decoder
    federated = {name: shape for name, shape in shapes.items() if name.startswith(prefixes or "nothing")}
    layout = build_layout(shapes, modalities, encoders=encoders, decoder=decoder)
    arrays = numbered(shapes)

    vectors = gather_all(layout, arrays)
    gathered = np.concatenate([part for pair in vectors.values() for part in pair])
    wanted = np.concatenate([arrays[name].ravel() for name in federated] or [np.zeros(0)])
    np.testing.assert_array_equal(np.sort(gathered), np.sort(wanted))
    assert layout.values == len(wanted)

    blank = {name: np.zeros_like(array) for name, array in arrays.items()}
    for segment in layout.segments:
        segment.scatter_plain(vectors[segment.name][0], blank)
        segment.scatter_filters(vectors[segment.name][1], blank)
    for name, array in blank.items():
        np.testing.assert_array_equal(array, arrays[name] if name in federated else 0, err_msg=name)


def test_segments_are_one_per_modality_and_the_common_one():
    layout = layout_of()
    assert [s.name for s in layout.segments] == [f"modality/{m}" for m in BRATS] + [COMMON]
    assert [s.modality for s in layout.segments] == [*BRATS, None]


def test_a_members_segments_are_those_of_its_modalities_and_the_common_one():
    assert [s.name for s in layout_of().for_member(("t2", "flair"))] == ["modality/flair", "modality/t2", COMMON]


def test_neither_calibration_nor_the_auxiliary_decoder_is_ever_in_the_vector():
    tensors = {p.tensor for s in layout_of().segments for p in (*s.plain, *s.filters)}
    assert {tensor.split(".")[0] for tensor in tensors} == {"encoders", "decoder"}


def test_an_encoder_is_plain_and_belongs_to_its_modality_alone():
    layout = layout_of()
    for segment in layout.segments:
        owners = {piece.tensor.split(".")[1] for piece in segment.plain}
        assert owners == (set() if segment.modality is None else {segment.modality})


def test_a_stacked_convolution_has_one_slot_per_filter_and_modality():
    tensor = "decoder.level3.fusion.short1.conv.weight"
    layout, channels = layout_of(), CHANNELS[3]
    for index, modality in enumerate(BRATS):
        (piece,) = pieces_of(segment_of(layout, f"modality/{modality}"), tensor)
        assert (piece.filters, piece.size, piece.bias) == (channels, channels, None)
        assert piece.columns == (index * channels, (index + 1) * channels)
    # its bias precedes an instance norm, hence is frozen and not federated: nothing is left for the common block
    assert pieces_of(segment_of(layout, COMMON), tensor) == []


@pytest.mark.parametrize("count", range(1, 6))
def test_hidden_layer_of_the_modality_weights_leaves_occupancy_and_bias_to_the_common_block(count):
    modalities = NAMES[:count]
    layout = layout_of(modalities, classes=3)
    tensor = "decoder.level2.fusion.modality_weights.hidden.1.weight"
    for modality in modalities:
        (piece,) = pieces_of(segment_of(layout, f"modality/{modality}"), tensor)
        assert (piece.filters, piece.size, piece.bias) == (128, CHANNELS[2], None)
    (rest,) = pieces_of(segment_of(layout, COMMON), tensor)
    inputs = count * CHANNELS[2]
    assert (rest.filters, rest.size, rest.columns) == (128, 2, (inputs, inputs + 1))
    assert rest.bias == tensor.removesuffix("weight") + "bias"


def test_rows_of_the_modality_weights_belong_to_their_modality_with_their_bias():
    tensor = "decoder.level1.fusion.modality_weights.score.3.weight"
    layout = layout_of()
    for index, modality in enumerate(BRATS):
        (piece,) = pieces_of(segment_of(layout, f"modality/{modality}"), tensor)
        assert (piece.rows, piece.size) == ((index, index + 1), 128 + 1)
        assert piece.bias == tensor.removesuffix("weight") + "bias"
    assert pieces_of(segment_of(layout, COMMON), tensor) == []


def test_slots_of_the_network_are_those_counted_by_hand():
    layout, classes = layout_of(), 4
    per_level = {level: c // 4 + c + classes * (128 + 1) for level, c in CHANNELS.items()}
    for modality in BRATS:  # embed1, short1, and per class 128 hidden units and one row
        assert segment_of(layout, f"modality/{modality}").slots == sum(per_level.values())
    common = 0
    for level, c in CHANNELS.items():
        common += c // 4 + c + 16 + classes  # PRM: embed2, embed3, mix, classify
        common += classes * 128  # hidden units: occupancy and bias
        common += c + c + c // 2 + c + c // 2  # region1-3, short2-3
        common += 0 if level == 4 else 2 * c  # join, mix
        common += c // 2 if level > 1 else 0  # rise
    assert segment_of(layout, COMMON).slots == common + classes


def test_a_slot_is_one_contiguous_run_of_a_filter_and_its_bias():
    layout = layout_of()
    segment = segment_of(layout, COMMON)
    arrays = numbered(network_shapes(BRATS, 4))
    vector = segment.gather_filters(arrays)
    piece = next(p for p in segment.filters if p.tensor == "decoder.classify.weight")
    first = sum(p.filters for p in segment.filters[: segment.filters.index(piece)])
    for row in range(piece.filters):
        start = segment.slot_starts[first + row]
        run = vector[start : start + segment.slot_sizes[first + row]]
        np.testing.assert_array_equal(run[:-1], arrays["decoder.classify.weight"][row].ravel())
        assert run[-1] == arrays["decoder.classify.bias"][row]


def test_memory_layout_of_a_parameter_does_not_matter():
    layout, arrays = layout_of(), numbered(network_shapes(BRATS, 4))
    last = {name: channels_last(array) for name, array in arrays.items()}
    for segment in layout.segments:
        np.testing.assert_array_equal(segment.gather_plain(last), segment.gather_plain(arrays))
        np.testing.assert_array_equal(segment.gather_filters(last), segment.gather_filters(arrays))
        segment.scatter_plain(-segment.gather_plain(arrays), last)
        segment.scatter_filters(-segment.gather_filters(arrays), last)
    for piece in (p for s in layout.segments for p in (*s.plain, *s.filters)):
        np.testing.assert_array_equal(last[piece.tensor], -arrays[piece.tensor])


def test_sums_and_spreads_per_slot_are_each_others_inverse_up_to_the_size():
    segment = segment_of(layout_of(), "modality/t1")
    numbers = np.arange(1, segment.slots + 1, dtype=np.float64)
    np.testing.assert_array_equal(segment.per_slot(segment.per_value(numbers)), numbers * segment.slot_sizes)


def test_without_a_decoder_there_are_no_slots_but_still_a_common_segment_for_the_scalars():
    common = segment_of(layout_of(decoder=False), COMMON)
    assert (common.slots, common.plain_values, common.filter_values) == (0, 0, 0)
    assert common.per_slot(np.zeros(0)).shape == (0,)
    assert common.gather_filters({}).dtype == np.float32


def test_a_shared_network_is_plain_and_common():
    shapes = network_shapes(BRATS, 4, shared=True)
    layout = build_layout(shapes, BRATS, encoders=True, decoder=False)
    assert [s.name for s in layout.segments] == [COMMON]
    assert layout.values == sum(int(np.prod(shape)) for shape in shapes.values())


def test_layers_have_names_for_people():
    layers = {piece.layer for segment in layout_of().segments for piece in segment.filters}
    assert {"level1.prm", "level4.fusion", "level2.join", "classify"} <= layers
