"""What is done to the colours of images in training.

"EfficientAD", arXiv 2303.14535, and "Uninformed Students", arXiv 1911.02357, take the colours of
some photographs away. Neither prints a formula; here grey is the luminance for both.
"""

import torch
from torch import Tensor

_LIGHT = (0.8, 1.2)


def luminance(images: Tensor) -> Tensor:
    """Grey value of images (B, 3, H, W): (B, 1, H, W), by the weights of ITU-R BT.601."""
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=images.dtype, device=images.device)
    return (images * weights.view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def greyed(images: Tensor, share: float) -> Tensor:
    """Images (B, 3, H, W), each without its colours with probability ``share``."""
    grey = torch.rand(len(images), 1, 1, 1, device=images.device) < share
    return torch.where(grey, luminance(images), images)


def in_other_light(images: Tensor) -> Tensor:
    """Brightness, contrast or saturation of a batch (B, 3, H, W) changed by up to a fifth."""
    low, high = _LIGHT
    factor = low + (high - low) * float(torch.rand(()))
    grey = luminance(images)
    against = (torch.zeros_like(grey), grey.mean(dim=(1, 2, 3), keepdim=True), grey)
    chosen = against[int(torch.randint(3, ()))]
    return (chosen + factor * (images - chosen)).clamp(0, 1)
