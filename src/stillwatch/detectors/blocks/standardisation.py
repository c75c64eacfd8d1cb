"""Standardise feature maps by statistics of normals, and images by those of ImageNet."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stillwatch.teachers.architectures import IMAGENET_MEAN, IMAGENET_STD

_LEAST_DEVIATION = 1e-6


def imagenet_normalised(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1], less ImageNet's mean, divided by its standard deviation."""
    mean, std = (images.new_tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


class Standardisation(nn.Module):
    """Subtracts each channel's mean and divides by its standard deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def measure(self, maps: Iterable[Tensor]) -> None:
        """Compute mean and deviation over all positions of at least one map (B, C, h, w)."""
        sums = torch.zeros(2, len(self.mean), dtype=torch.float64, device=self.mean.device)
        count = 0
        for part in maps:
            values = part.double().transpose(0, 1).flatten(1)
            count += values.shape[1]
            sums += torch.stack([values.sum(dim=1), values.square().sum(dim=1)])
        mean, square = sums / count
        variance = (square - mean.square()).clamp_min(_LEAST_DEVIATION**2)
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_(variance.sqrt().view_as(self.std))

    def forward(self, maps: Tensor) -> Tensor:
        """Standardised (B, C, h, w)."""
        return (maps - self.mean) / self.std
