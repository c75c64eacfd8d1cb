"""The autoencoder and the style network that imitates it, against their formulas."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixed_network import FixedNetwork
from made_normals import combined, levels_of, one_batch
from scipy import ndimage
from torch import nn
from torch.nn import functional as F  # noqa: N812
from toys import toy_normals, toy_teacher

from stillwatch.detectors.autoencoder import (
    Autoencoder,
    ConvolutionalAutoencoder,
    away_from_edges,
)
from stillwatch.detectors.base import Detector
from stillwatch.detectors.blocks.maps import gaussian_filter
from stillwatch.detectors.blocks.similarity import squared_error, structural_dissimilarity
from stillwatch.detectors.style_distillation import StyleDistillation, StyleNetwork
from stillwatch.teachers.networks import images_to_input


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return images_to_input(torch.from_numpy(toy_normals(2, first=50)))


def test_squared_error_by_hand() -> None:
    """((1 - 0)^2 + (0.5 - 0)^2 + 0^2) / 3."""
    a, b = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)
    assert squared_error(a, b).item() == pytest.approx(1.25 / 3)


def test_ssim_of_equal_images_is_one(images: torch.Tensor) -> None:
    assert structural_dissimilarity(images, images).abs().max() < 1e-4


def test_ssim_of_constant_images_by_hand() -> None:
    """Only the luminance term is left: (2 · 0.2 · 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4)."""
    a, b = torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 16, 16), 0.6)
    expected = 1 - (2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4)
    assert structural_dissimilarity(a, b).mean().item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("of_a", "of_b", "expected"),
    [
        # Variances 0.01 twice, covariance -0.01: (-0.02 + 9e-4) / (0.02 + 9e-4) = -0.0191 / 0.0209
        (0.1, -0.1, 1 + 0.0191 / 0.0209),
        # Variances 0.01 and 0.04, covariance 0.02: (0.04 + 9e-4) / (0.05 + 9e-4)
        (0.1, 0.2, 1 - 0.0409 / 0.0509),
    ],
)
def test_ssim_of_checkerboards_by_hand(of_a: float, of_b: float, expected: float) -> None:
    """Around 0.5 both, so that the luminance term is 1; the window is wide beside a square."""
    row = torch.arange(32) % 2
    board = 2.0 * ((row[:, None] + row) % 2) - 1
    a, b = ((0.5 + size * board).expand(1, 3, 32, 32) for size in (of_a, of_b))
    inside = structural_dissimilarity(a, b)[0, 10:22, 10:22]
    torch.testing.assert_close(inside, torch.full((12, 12), expected), rtol=1e-3, atol=0)


def test_ssim_of_an_inverted_texture_is_negative() -> None:
    noise = torch.rand(1, 3, 32, 32)
    assert structural_dissimilarity(noise, 1 - noise).mean() > 1.5


def test_ssim_is_exact_where_images_are_bright_and_nearly_flat() -> None:
    """Against double precision: an export that rounds otherwise must come to the same map."""

    def mean(x: torch.Tensor) -> torch.Tensor:
        return gaussian_filter(x.flatten(0, 1), 1.5)(x.flatten(0, 1)).view_as(x)

    a, b = (0.95 + 0.002 * torch.rand(1, 3, 32, 32) for _ in range(2))
    x, y = a.double(), b.double()
    luminance = (2 * mean(x) * mean(y) + 1e-4) / (mean(x) ** 2 + mean(y) ** 2 + 1e-4)
    covariance = mean(x * y) - mean(x) * mean(y)
    variances = mean(x * x) - mean(x) ** 2 + mean(y * y) - mean(y) ** 2
    expected = 1 - (luminance * (2 * covariance + 9e-4) / (variances + 9e-4)).mean(dim=1)
    torch.testing.assert_close(structural_dissimilarity(a, b), expected.float(), rtol=0, atol=5e-6)


@pytest.mark.parametrize("distance", ["l2", "ssim"])
def test_autoencoder_scores_with_what_it_is_trained_with(
    images: torch.Tensor, distance: str
) -> None:
    detector = Autoencoder.build(toy_teacher(), {"distance": distance})
    formula = {"l2": squared_error, "ssim": structural_dissimilarity}[distance]
    with torch.no_grad():
        errors = formula(images, detector.autoencoder(images))
    assert_smoothed_averages(detector, errors)


def assert_smoothed_averages(detector: Detector, errors: torch.Tensor) -> None:
    """The maps of ``images`` are (B, H, W) averaged over 4×4 pixels and smoothed by 8 pixels."""
    averages = errors.unfold(1, 4, 4).unfold(2, 4, 4).mean(dim=(3, 4)).numpy()
    levels = levels_of(detector, toy_normals(2, first=50))
    found = combined(levels, detector.combination(levels, 8.0))
    expected = np.stack([ndimage.gaussian_filter(one, 2.0) for one in averages])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("distance", "expected"),
    [("l2", 0.4**2), ("ssim", 1 - (2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4))],
)
def test_autoencoders_loss_and_map_by_hand(distance: str, expected: float) -> None:
    """Images that are 0.2 everywhere, rebuilt as 0.6 everywhere."""
    detector = Autoencoder.build(toy_teacher(), {"distance": distance})
    images = torch.full((2, 3, 16, 16), 0.2)
    detector.autoencoder = FixedNetwork(torch.full((2, 3, 16, 16), 0.6))
    (phase,) = detector.phases()
    assert phase.loss(SimpleNamespace(images=images)).item() == pytest.approx(expected, rel=1e-4)
    detector.autoencoder = FixedNetwork(torch.full((1, 3, 16, 16), 0.6))
    (level,) = detector.level_maps(images)
    torch.testing.assert_close(level, torch.full((2, 4, 4), expected), rtol=1e-3, atol=0)


@pytest.mark.parametrize("network", [ConvolutionalAutoencoder, StyleNetwork])
def test_the_size_is_kept(network: type[torch.nn.Module]) -> None:
    assert network().eval()(torch.rand(1, 3, 32, 64)).shape == (1, 3, 32, 64)


def test_zero_padding_does_not_reach_the_image() -> None:
    """A network that sums 33×33 neighbourhoods, of which the padded image is as grey as all."""

    def summed(images: torch.Tensor) -> torch.Tensor:
        assert images.shape[2:] == (69, 72)
        return F.avg_pool2d(images, 33, stride=1, padding=16)

    grey = torch.full((1, 3, 37, 40), 0.25)
    torch.testing.assert_close(away_from_edges(summed, grey), grey)


def test_a_negative_is_not_what_ssim_learns(images: torch.Tensor) -> None:
    """SSIM's product of two negative terms would call it equal; a rebuilt image is in [0, 1]."""
    texture = 0.5 + 0.5 * torch.rand(1, 3, 32, 32)
    assert structural_dissimilarity(texture, -texture).mean() < 0.2
    rebuilt = ConvolutionalAutoencoder().eval()(images - 5)
    assert rebuilt.min() >= 0
    assert rebuilt.max() <= 1


def test_an_untrained_style_network_changes_nothing(images: torch.Tensor) -> None:
    assert torch.equal(StyleNetwork().eval()(images), images)


def test_style_loss_is_imitation_and_half_the_outliers_loss() -> None:
    """An untrained style network is the identity: what turned images lose is 0."""
    detector = StyleDistillation.build(toy_teacher(), {})
    batch = one_batch(toy_normals(3), detector.teacher)
    _, style = detector.phases()
    with torch.no_grad():
        imitation = squared_error(batch.images, detector.autoencoder(batch.images)).mean()
        torch.testing.assert_close(style.loss(batch), imitation)
        detector.style.change.bias.fill_(0.1)
        shifted = squared_error(batch.images + 0.1, detector.autoencoder(batch.images)).mean()
        torch.testing.assert_close(style.loss(batch), shifted + 0.5 * 0.1**2)


def test_style_loss_and_map_by_hand() -> None:
    """The style network says 0.5, the autoencoder 0.2, the images are 0.4, turned or not."""
    detector = StyleDistillation.build(toy_teacher(), {})
    images, style, rebuilt = (torch.full((2, 3, 16, 16), value) for value in (0.4, 0.5, 0.2))
    detector.style, detector.autoencoder = FixedNetwork(style), FixedNetwork(rebuilt)
    loss = detector.phases()[1].loss(SimpleNamespace(images=images))
    assert loss.item() == pytest.approx(0.3**2 + 0.5 * 0.1**2)
    (level,) = detector.level_maps(images)
    torch.testing.assert_close(level, torch.full((2, 4, 4), 0.09))


def test_outliers_are_the_batch_turned_by_a_quarter_a_half_and_three_quarters() -> None:
    class Recording(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return images

    seen: list[torch.Tensor] = []
    detector = StyleDistillation.build(toy_teacher(), {})
    detector.style = Recording()
    batch = one_batch(toy_normals(2), detector.teacher)
    torch.manual_seed(0)
    for _ in range(20):
        detector.phases()[1].loss(batch)
    turns = {
        next(k for k in range(4) if torch.equal(x, torch.rot90(batch.images, k, (2, 3))))
        for x in seen[1::2]
    }
    assert turns == {1, 2, 3}


def test_the_style_network_has_more_capacity_than_what_it_imitates() -> None:
    sizes = [
        sum(parameter.numel() for parameter in network.parameters())
        for network in (StyleNetwork(), ConvolutionalAutoencoder())
    ]
    assert sizes[0] > sizes[1]


def test_the_score_is_the_difference_of_the_two_networks(images: torch.Tensor) -> None:
    detector = StyleDistillation.build(toy_teacher(), {})
    with torch.no_grad():
        errors = squared_error(detector.style(images), detector.autoencoder(images))
    assert_smoothed_averages(detector, errors)


def test_the_autoencoder_is_frozen_while_the_style_is_learnt() -> None:
    detector = StyleDistillation.build(toy_teacher(), {})
    batch = one_batch(toy_normals(3), detector.teacher)
    _, style = detector.phases()
    style.loss(batch).backward()
    assert all(parameter.grad is None for parameter in detector.autoencoder.parameters())
