"""Distances between feature maps, and what turns them into one anomaly map."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

SIGMA = 4.0
"""Of the Gaussian with which several methods smooth their final map, in pixels of the input."""


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos of the channel vectors at each position: (B, C, h, w) twice -> float32 (B, h, w).

    In [0, 2].
    """
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=1)


def normalised_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of the l2-normalised channel vectors: (B, C, h, w) twice -> (B, h, w).

    float32 in [0, 4]. Equals 2 - 2 cos, without its cancellation where a and b nearly agree.
    """
    return (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(dim=1)


def flattened_cosine_loss(teacher: Iterable[Tensor], student: Iterable[Tensor]) -> Tensor:
    """Sum over levels of the batch mean of 1 - cos, each image's whole map being one vector."""
    return torch.stack(
        [
            (1 - F.cosine_similarity(a.float().flatten(1), b.float().flatten(1))).mean()
            for a, b in zip(teacher, student, strict=True)
        ]
    ).sum()


def resize_maps(maps: Tensor, size: Sequence[int], *, align_corners: bool) -> Tensor:
    """Bilinear: (B, h, w) -> (B, *size)."""
    return F.interpolate(
        maps[:, None], size=tuple(size), mode="bilinear", align_corners=align_corners
    )[:, 0]


def gaussian_smooth(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian filter of maps (B, h, w), as ``scipy.ndimage.gaussian_filter`` with its defaults.

    The kernel ends at 4 sigma and the map is mirrored at its edges, edge pixels repeated.
    """
    rows = _smoothing_matrix(maps.shape[1], sigma).to(maps)
    columns = _smoothing_matrix(maps.shape[2], sigma).to(maps)
    return rows @ maps @ columns.T


def _smoothing_matrix(length: int, sigma: float) -> Tensor:
    """The filter with its mirrored edges as one (length, length) matrix, each row summing to 1.

    On maps of our sizes a product with it is faster than a convolution with one channel, and maps
    smaller than the kernel need no case of their own.
    """
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    positions = (torch.arange(length)[:, None] + offsets) % (2 * length)
    mirrored = torch.minimum(positions, 2 * length - 1 - positions)
    weights = (kernel / kernel.sum()).expand(length, -1)
    return torch.zeros(length, length, dtype=torch.float64).scatter_add_(1, mirrored, weights)
