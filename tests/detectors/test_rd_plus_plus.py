"""RD++ against its formulas, and its projections against the authors' description."""

import math

import pytest
import torch
from made_normals import one_batch
from torch import nn
from toys import toy_normals, toy_teacher

from stillwatch.detectors.rd_plus_plus import (
    RDPlusPlus,
    contrast_loss,
    projection,
    projection_loss,
    simplex_octave,
    sinkhorn_divergence,
    transport_loss,
    with_simplex_noise,
)


def single_vectors(*vectors: tuple[float, ...]) -> torch.Tensor:
    """Maps (B, C, 1, 1)."""
    return torch.tensor(vectors)[:, :, None, None]


def test_losses_by_hand() -> None:
    """Vectors of two images at one position; (0.6, 0.8) has the cosine 0.6 to (1, 0)."""
    projected = [single_vectors((1.0, 0.0), (0.0, 1.0))]
    cleaned = [single_vectors((0.6, 0.8), (0.0, 1.0))]
    noisy = [single_vectors((0.8, 0.6), (1.0, 0.0))]
    assert transport_loss(projected).item() == pytest.approx(1.0)
    assert contrast_loss(noisy, projected).item() == pytest.approx((0.3 + 0) / 2)
    expected = (1 + 0.01 * (0.4 + 0) / 2 + 0.1 * 0.15) / 1.11
    assert projection_loss(projected, noisy, cleaned).item() == pytest.approx(expected)


def test_sinkhorn_divergence_moves_each_point_to_the_nearest() -> None:
    points = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    moved = torch.tensor([[[1.0, 0.3], [0.0, 0.3]]])
    assert sinkhorn_divergence(points, moved).item() == pytest.approx(0.3**2 / 2)
    assert sinkhorn_divergence(points, points.flip(1)).item() == pytest.approx(0, abs=1e-6)


def test_sinkhorn_divergence_pulls_the_sets_together() -> None:
    points = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]], requires_grad=True)
    moved = torch.tensor([[[1.0, 0.3], [0.0, 0.3]]])
    sinkhorn_divergence(points, moved).sum().backward()
    expected = torch.tensor([[[0.0, -0.15], [0.0, -0.15]]])
    torch.testing.assert_close(points.grad, expected, rtol=1e-4, atol=1e-5)


def test_simplex_noise_by_hand() -> None:
    """At a corner no gradient counts; at (1/4, 0) those of the three corners of its triangle do."""
    points = torch.tensor([[[0.0, 0.25]], [[0.0, 0.0]]])
    unskew = (3 - math.sqrt(3)) / 6
    offsets = [(0.25, 0.0), (unskew - 0.75, unskew), (2 * unskew - 0.75, 2 * unskew - 1)]
    along_rows = sum(max(0, 0.5 - a * a - b * b) ** 4 * a for a, b in offsets)
    noise = simplex_octave(points, torch.zeros(1, 3, 3))
    torch.testing.assert_close(noise, 99.2 * torch.tensor([[[0.0, along_rows]]]))
    assert along_rows == pytest.approx(0.4375**4 * 0.25, rel=0.05), "the nearest corner's mostly"


def test_noise_is_in_one_small_box_of_each_image() -> None:
    torch.manual_seed(0)
    images = torch.full((4, 3, 64, 96), 0.5)
    noise = with_simplex_noise(images) - images
    assert bool((noise == noise[:, :1]).all()), "grey"
    assert 0.05 < noise.abs().amax() < 0.2 * sum(0.6**octave for octave in range(6))
    boxes = []
    for changed in noise[:, 0] != 0:
        rows, columns = changed.nonzero().T
        boxes.append((int(rows.min()), int(columns.min())))
        # A corner of the lattice has no noise, and may lie on the edge of the box.
        assert all(8 <= int(x.max() - x.min()) + 1 <= 31 for x in (rows, columns))
    assert len(set(boxes)) == len(boxes), "each elsewhere"


def test_held_out_normals_are_measured_without_noise() -> None:
    detector = RDPlusPlus.build(toy_teacher(), {})
    batch = one_batch(toy_normals(3), detector.teacher)
    (phase,) = detector.phases()
    with torch.no_grad():
        first, second = (phase.loss(batch).item() for _ in range(2))
        rebuilt = detector.student(batch.features)
        cosines = [
            torch.cosine_similarity(a.flatten(1), b.flatten(1)).mean().item()
            for a, b in zip(batch.features, rebuilt, strict=True)
        ]
    assert first == second == pytest.approx(3 - sum(cosines), rel=1e-4)


def test_a_small_step_has_noisy_views_of_two_images() -> None:
    """Of one image alone there is no other to transport to."""
    detector = RDPlusPlus.build(toy_teacher(), {}).train()
    batch = one_batch(toy_normals(4), detector.teacher)
    assert len(batch.features[0]) == 4
    seen: list[int] = []
    detector.teacher.register_forward_hook(lambda _module, given, _out: seen.append(len(given[0])))
    (phase,) = detector.phases()
    phase.loss(batch)
    assert seen == [2]


def test_layers_of_the_projections_are_the_authors() -> None:
    layers = list(projection(256))
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    sizes = [(layer.in_channels, layer.out_channels, layer.kernel_size) for layer in convolutions]
    assert sizes == [
        (256, 128, (3, 3)),
        (128, 64, (3, 3)),
        (64, 128, (3, 3)),
        (128, 256, (3, 3)),
    ]
    assert [type(layer) for layer in layers[1:3]] == [nn.InstanceNorm2d, nn.LeakyReLU]
    assert layers[2].negative_slope == 0.01


def test_authors_recipe() -> None:
    detector = RDPlusPlus.build(toy_teacher(), RDPlusPlus.paper)
    settings = detector.settings
    assert (settings.noisy_share, settings.projection_weight) == (1, 0.2)
    assert (settings.easy_share, settings.disturbance, settings.fusion) == (0, False, "published")
    (phase,) = detector.phases()
    optimizer = phase.optimizer(phase.module.parameters())
    assert isinstance(optimizer, torch.optim.Adam)
    others, projections = optimizer.param_groups
    assert (others["lr"], projections["lr"]) == (0.005, 0.001)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.5, 0.999)}
    assert len(projections["params"]) == 3 * 4
    assert len(others["params"]) + 12 == len(list(phase.module.parameters()))
    assert phase.batch_size == 16
