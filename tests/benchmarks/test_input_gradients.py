"""Maps from gradients against their formulas."""

import pytest
import torch
from benchmarks.input_gradients import gradient_maps, smooth_gradient_maps

from stillwatch.detectors.blocks.maps import gaussian_smooth


def test_gradients_are_cut_at_the_99th_percentile_and_scaled() -> None:
    """The gradient of a weighted sum is its weights, here 0 to 99: cut at 98.01 of them."""
    weights = torch.arange(100.0).view(1, 1, 10, 10)
    maps = gradient_maps(lambda x: (weights * x[:, :1]).sum((1, 2, 3)), torch.rand(1, 3, 10, 10))
    cut = weights[:, 0].clamp_max(98.01) / 98.01
    torch.testing.assert_close(maps, gaussian_smooth(cut, 4 * 10 / 256))


def test_gradients_are_summed_over_the_channels_without_their_signs() -> None:
    weights = torch.tensor([1.0, -2.0, 0.0]).view(1, 3, 1, 1) * torch.arange(16.0).view(1, 1, 4, 4)
    maps = gradient_maps(lambda x: (weights * x).sum((1, 2, 3)), torch.rand(1, 3, 4, 4))
    summed = 3 * torch.arange(16.0).view(1, 4, 4)
    highest = 3 * 14.85  # the 99th percentile of 0 to 15 is 14.85
    torch.testing.assert_close(
        maps, gaussian_smooth(summed.clamp_max(highest) / highest, 4 * 4 / 256)
    )


def test_the_noise_of_smoothgrad_is_the_square_of_a_twentieth_over_the_range() -> None:
    seen = []

    def scores(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return x.square().sum((1, 2, 3))

    images = torch.linspace(0.25, 0.75, 3 * 32 * 32).view(1, 3, 32, 32)
    smooth_gradient_maps(scores, images)
    assert len(seen) == 50
    noise = torch.stack(seen) - images
    assert noise.std().item() == pytest.approx((0.05 / 0.5) ** 2, rel=0.02)
