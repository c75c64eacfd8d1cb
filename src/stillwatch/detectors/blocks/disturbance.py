"""Disturb feature maps in a random window, so that a decoder learns the normal features.

A decoder that learns to reconstruct a few hundred normals also learns to reconstruct anomalies. A
decoder that must reconstruct normal features from disturbed ones does not. Others disturb features
by noise (You et al., UniAD, NeurIPS 2022, section 3.3), or images, by noise (Tien et al., RD++,
CVPR 2023) or made-up defects (Zhang et al., DeSTSeg, CVPR 2023); turning and shifting a window of
the features is our own, and needs no second pass of the teacher. It is not done by torchvision,
whose transforms of a batch are the same for all images and mirror no edges.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

_LARGEST_TURN = 0.6
"""In radians, in both directions."""
_LARGEST_SHIFT = 0.05
"""Share of the side of the image, in both directions."""
_WINDOW_SIDES = (0.1, 0.4)
"""Shares of the side of the image."""


def disturbed(features: list[Tensor]) -> list[Tensor]:
    """Turn and shift a random window of each image, in the same way at all levels.

    The window shows another part of the same image, mirrored at its edges. Random numbers come
    from torch's global generator.

    Args:
        features: float (B, C_l, h_l, w_l) per level.

    Returns:
        As ``features``.
    """
    count = len(features[0])
    low, high = _WINDOW_SIDES
    # In the coordinates of torch's grids the image reaches from -1 to 1.
    middle = 1.6 * torch.rand(count, 2) - 0.8
    halves = low + (high - low) * torch.rand(count, 2)
    transform = _turned_around(
        middle,
        angle=_LARGEST_TURN * _either_way(count),
        shift=2 * _LARGEST_SHIFT * _either_way(count, 2),
    )
    return [_in_window(level, transform, middle, halves) for level in features]


def _either_way(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape) - 1


def _turned_around(middle: Tensor, angle: Tensor, shift: Tensor) -> Tensor:
    """Affine transforms (B, 2, 3) from the window to the place that it shows."""
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.stack(
        [torch.stack([cosine, -sine], dim=1), torch.stack([sine, cosine], dim=1)], dim=1
    )
    offset = middle - (turn @ middle[:, :, None]).squeeze(2) + shift
    return torch.cat([turn, offset[:, :, None]], dim=2)


def _in_window(level: Tensor, transform: Tensor, middle: Tensor, halves: Tensor) -> Tensor:
    shape = list(level.shape)
    unmoved = torch.eye(2, 3).expand(len(level), 2, 3)
    here = F.affine_grid(unmoved, shape, align_corners=False)
    inside = ((here - middle[:, None, None]).abs() < halves[:, None, None]).all(dim=3)
    grid = F.affine_grid(transform, shape, align_corners=False).to(level)
    moved = F.grid_sample(level, grid, padding_mode="reflection", align_corners=False)
    return torch.where(inside[:, None].to(level.device), moved, level)
