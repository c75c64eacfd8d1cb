"""Pixelwise distances between two images: squared error and structural dissimilarity."""

import torch
from torch import Tensor

from stillwatch.detectors.blocks.maps import gaussian_filter

_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean over the channels of (a - b)^2: (B, C, H, W) twice -> (B, H, W)."""
    return (a.float() - b.float()).square().mean(dim=1)


def structural_dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """1 - SSIM of images in [0, 1], mean over the channels: (B, C, H, W) twice -> (B, H, W).

    Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment", IEEE TIP 2004, equation 13, with
    its constants and Gaussian window (sigma 1.5 pixels; it ends 6 from the middle, theirs 5). In
    [0, 2].
    """
    a, b = a.float(), b.float()
    # A variance is a small difference of two means: half precision would leave nothing of it, and
    # single precision little where both images are bright and flat, unless they are near zero.
    level = a.mean(dim=(2, 3), keepdim=True)
    a, b = a - level, b - level
    with torch.autocast(a.device.type, enabled=False):
        smooth = gaussian_filter(a.flatten(0, 1), _SIGMA)

        def local_mean(x: Tensor) -> Tensor:
            return smooth(x.flatten(0, 1)).view_as(x)

        mean_a, mean_b = local_mean(a), local_mean(b)
        variance_a = local_mean(a * a) - mean_a.square()
        variance_b = local_mean(b * b) - mean_b.square()
        covariance = local_mean(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + level, mean_b + level
    similarity = ((2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)) / (
        (mean_a.square() + mean_b.square() + _C1) * (variance_a + variance_b + _C2)
    )
    return (1 - similarity).mean(dim=1)
