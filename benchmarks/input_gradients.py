"""Maps from the gradient of an image's score, as multiresolution distillation localises defects.

Salehi and others, CVPR 2021, arXiv 2011.11108, section 3.2. They need a backward pass and are
scaled by each image's own extremes, so that no threshold holds across images: they are for
comparison with the forward map, never for a verdict. Ours: the Gaussian is in proportion to the
image, 4 pixels at 256 and so 2 at the paper's 128, where the authors have 4; and guided gradients
are cut at their 99th percentile like the others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from stillwatch.detectors.blocks.maps import gaussian_smooth
from stillwatch.errors import DetectorError

Scores = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) in [0, 1] to one score each, (B,), differentiable."""

_BRIGHTEST = 0.99
_NOISY_COPIES = 50
_NOISE = 0.05
_SIGMA = 4 / 256
"""Standard deviation of the Gaussian relative to the shorter side of the image."""


def gradient_maps(scores: Scores, images: Tensor) -> Tensor:
    """Size of d score / d image: cut at its 99th percentile, scaled to [0, 1], smoothed.

    Args:
        scores: each image's score must depend on that image alone.
        images: float32 (B, 3, H, W) in [0, 1].

    Returns:
        float32 (B, H, W).
    """
    return _smoothed(_unsmoothed(scores, images))


def smooth_gradient_maps(scores: Scores, images: Tensor, *, seed: int = 0) -> Tensor:
    """Mean of the gradient maps of 50 noisy copies, smoothed (SmoothGrad, arXiv 1706.03825).

    The noise is that of the authors' code: its standard deviation is the square of 0.05 over the
    image's range.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    low, high = images.flatten(1).aminmax(dim=1)
    deviation = (_NOISE / (high - low).clamp_min(1e-6)).square().view(-1, 1, 1, 1)
    total = torch.zeros_like(images[:, 0])
    for _ in range(_NOISY_COPIES):
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        total += _unsmoothed(scores, images + deviation * noise)
    return _smoothed(total / _NOISY_COPIES)


def guided_gradient_maps(scores: Scores, network: nn.Module, images: Tensor) -> Tensor:
    """Gradient maps without what is negative at the ReLUs of ``network`` (arXiv 1412.6806).

    Raises:
        DetectorError: ``network`` has no ReLU.
    """
    with _only_positive_gradients(network):
        return gradient_maps(scores, images)


def opened(maps: Tensor) -> Tensor:
    """Maps (B, H, W) after a morphological opening with a 3×3 ellipse.

    Thresholding it at any level equals opening the thresholded map, which is what the authors do.
    """
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    levels = [cv2.morphologyEx(one, cv2.MORPH_OPEN, ellipse) for one in maps.cpu().numpy()]
    return torch.from_numpy(np.stack(levels)).to(maps)


def _smoothed(maps: Tensor) -> Tensor:
    return gaussian_smooth(maps, _SIGMA * min(maps.shape[1:]))


def _unsmoothed(scores: Scores, images: Tensor) -> Tensor:
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(scores(images).sum(), images)
    flat = gradient.abs().sum(dim=1).flatten(1)
    flat = torch.minimum(flat, flat.quantile(_BRIGHTEST, dim=1, keepdim=True))
    low, high = flat.aminmax(dim=1, keepdim=True)
    return ((flat - low) / (high - low).clamp_min(1e-12)).view_as(gradient[:, 0])


@contextmanager
def _only_positive_gradients(network: nn.Module) -> Iterator[None]:
    def cut(_: nn.Module, to_input: tuple[Tensor], __: tuple[Tensor]) -> tuple[Tensor]:
        return (to_input[0].clamp_min(0),)

    rectifiers = [one for one in network.modules() if isinstance(one, nn.ReLU | nn.ReLU6)]
    if not rectifiers:
        raise DetectorError(
            "guided backpropagation needs a network with ReLUs, and this one has none. Leave it "
            "out, or take another teacher."
        )
    hooks = [module.register_full_backward_hook(cut) for module in rectifiers]
    in_place = [module.inplace for module in rectifiers]
    for module in rectifiers:
        module.inplace = False  # torch refuses backward hooks on what is overwritten
    try:
        yield
    finally:
        for hook, module, before in zip(hooks, rectifiers, in_place, strict=True):
            hook.remove()
            module.inplace = before
