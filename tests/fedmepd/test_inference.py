"""Whole volumes are segmented by the mean of overlapping windows, whatever their size."""

from __future__ import annotations

import pytest
import torch

from fedmepd.anchors import Anchors
from fedmepd.compute import Backend
from fedmepd.errors import ConfigError
from fedmepd.inference import class_indices, count_windows, predict_labels, segment
from fedmepd.model import Architecture, build

CPU = Backend(device=torch.device("cpu"), bfloat16=False, compile=False)
MODALITIES = ("flair", "t1ce", "t1", "t2")


def network_for(own=("flair", "t1"), **options):
    architecture = Architecture(modalities=MODALITIES, own=own, classes=3, width=4, **options)
    return build(architecture, 0).eval()


def image_of(*shape, channels=2, seed=1):
    return torch.randn(channels, *shape, generator=torch.Generator().manual_seed(seed))


def directly(network, image, given=("flair", "t1"), anchors=None):
    with torch.no_grad():
        return network(image.unsqueeze(0), anchors, given).probabilities[0]


def slid(network, image, **options):
    options = {"given": ("flair", "t1"), "window": 16, "backend": CPU, "anchors": None} | options
    return segment(network, image=image, **options)


def test_a_volume_of_one_window_is_what_the_network_says():
    network, image = network_for(), image_of(16, 16, 16)
    torch.testing.assert_close(slid(network, image), directly(network, image), atol=1e-5, rtol=0)


def test_overlapping_windows_are_averaged():
    network, image = network_for(), image_of(24, 16, 16)
    first, second = directly(network, image[:, :16]), directly(network, image[:, 8:])
    wanted = torch.cat([first[:, :8], (first[:, 8:] + second[:, :8]) / 2, second[:, 8:]], dim=1)
    got = slid(network, image)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.sum(dim=0), torch.ones(24, 16, 16))


def test_without_overlap_every_voxel_is_seen_once():
    network, image = network_for(), image_of(32, 16, 16)
    wanted = torch.cat([directly(network, image[:, :16]), directly(network, image[:, 16:])], dim=1)
    torch.testing.assert_close(slid(network, image, overlap=0.0), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(10, 16, 16), (5, 9, 13)])
def test_a_volume_smaller_than_the_window_is_seen_among_zeros(shape):
    network, image = network_for(), image_of(*shape)
    starts = [(16 - size) // 2 for size in shape]
    box = (slice(None), *(slice(start, start + size) for start, size in zip(starts, shape, strict=True)))
    padded = torch.zeros(2, 16, 16, 16)
    padded[box] = image
    torch.testing.assert_close(slid(network, image), directly(network, padded)[box], atol=1e-5, rtol=0)


def test_any_size_of_volume_comes_back_in_its_size():
    network = network_for()
    assert slid(network, image_of(19, 33, 8)).shape == (3, 19, 33, 8)


def test_a_part_of_the_members_modalities_may_be_given():
    network, image = network_for(), image_of(16, 16, 16, channels=1)
    wanted = directly(network, image, given=("t1",))
    torch.testing.assert_close(slid(network, image, given=("t1",)), wanted, atol=1e-5, rtol=0)


def test_anchors_are_used_where_the_member_has_calibration():
    network, image = network_for(calibration="residual"), image_of(16, 16, 16)
    generator = torch.Generator().manual_seed(5)
    for parameter in network.calibration.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    levels = tuple(torch.randn(3, 2, 4 << i, generator=generator) for i in range(4))
    anchors = Anchors(levels=levels, weights=torch.ones(3, 2))
    with_anchors = slid(network, image, anchors=anchors)
    torch.testing.assert_close(with_anchors, directly(network, image, anchors=anchors), atol=1e-5, rtol=0)
    assert (with_anchors - slid(network, image)).abs().max() > 1e-2


def test_shared_networks_segment_too():
    network, image = network_for(shared=True), image_of(16, 16, 16)
    torch.testing.assert_close(slid(network, image), directly(network, image), atol=1e-5, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_in_the_mode_it_was_in(training):
    network, image = network_for().train(training), image_of(16, 16, 16)
    result = slid(network, image)
    assert network.training is training
    assert not result.requires_grad
    torch.testing.assert_close(result, directly(network.eval(), image), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("shape", "overlap"), [((40, 16, 23), 0.5), ((40, 17, 16), 0.25), ((33, 8, 8), 0.0)])
def test_progress_counts_the_windows(shape, overlap):
    seen = []
    slid(network_for(), image_of(*shape), overlap=overlap, progress=lambda done, total: seen.append((done, total)))
    total = count_windows(shape, 16, overlap)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_windows_of_a_whole_brain():
    assert count_windows((240, 240, 155), 80, 0.5) == 75


@pytest.mark.parametrize("options", [{"window": 8}, {"window": 20}, {"overlap": 1.0}, {"overlap": -0.1}], ids=str)
def test_windows_that_cannot_be_used_are_refused(options):
    with pytest.raises(ConfigError):
        slid(network_for(), image_of(16, 16, 16), **options)


def test_labels_are_the_most_probable_class_inside_the_brain():
    probabilities = torch.tensor([[0.1, 0.5, 0.2, 0.0], [0.7, 0.3, 0.2, 0.1], [0.2, 0.2, 0.6, 0.9]]).view(3, 4, 1, 1)
    brain = torch.tensor([True, True, True, False]).view(4, 1, 1)
    labels = class_indices(probabilities, brain)
    assert labels.dtype == torch.uint8
    assert labels.flatten().tolist() == [1, 0, 2, 0]


def test_predicted_labels_are_those_of_the_probabilities():
    network, image = network_for(), image_of(18, 16, 16)
    brain = torch.zeros(18, 16, 16, dtype=torch.bool)
    brain[4:12] = True
    labels = predict_labels(network, None, image, brain, given=("flair", "t1"), window=16, backend=CPU)
    assert torch.equal(labels, class_indices(slid(network, image), brain))
    assert int(labels[:4].sum()) == int(labels[12:].sum()) == 0


def test_prediction_leaves_the_random_generators_alone():
    network, image = network_for(calibration="paper"), image_of(16, 16, 16)
    before = torch.get_rng_state()
    slid(network, image)
    assert torch.equal(before, torch.get_rng_state())
