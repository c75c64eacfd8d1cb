"""Random changes of images during training, by ``torchvision.transforms.v2``.

Random numbers come from torch's global generator, which the training loop seeds for every epoch, so
that a resumed training draws what it would have drawn anyway. torchvision is imported where images
are changed: the import takes as long as torch's own, and inspection does not need it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def greyed(images: Tensor, share: float) -> Tensor:
    """Images (B, 3, H, W), each without its colours with probability ``share``."""
    from torchvision.transforms.v2 import functional

    grey = torch.rand(len(images), 1, 1, 1, device=images.device) < share
    return torch.where(grey, functional.rgb_to_grayscale(images, num_output_channels=3), images)


def in_other_light(images: Tensor, change: float) -> Tensor:
    """Brightness, contrast or saturation of a batch changed by one factor, all images alike.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        change: the factor is drawn from [1 - change, 1 + change].
    """
    from torchvision.transforms import v2

    light = v2.RandomChoice(
        [
            v2.ColorJitter(brightness=change),
            v2.ColorJitter(contrast=change),
            v2.ColorJitter(saturation=change),
        ]
    )
    changed: Tensor = light(images)
    return changed


def quarter_turned(images: Tensor) -> Tensor:
    """A batch (B, C, H, W) turned by 90, 180 or 270 degrees, all images alike."""
    from torchvision.transforms import v2

    angles = (90, 180, 270)
    turn = v2.RandomChoice([v2.RandomRotation((x, x), expand=True) for x in angles])
    result: Tensor = turn(images)
    return result


def random_windows(images: Tensor, side: int) -> Tensor:
    """One random square of each image: (B, C, H, W) -> (B, C, side, side)."""
    from torchvision.transforms import v2

    crop = v2.RandomCrop(side)
    return torch.stack([crop(image) for image in images])


def zoomed_windows(images: Sequence[Tensor], side: int, zoom: tuple[float, float]) -> Tensor:
    """One random square of each image, resized: B times (C, H, W) -> (B, C, side, side).

    Args:
        images: float (C, H, W) each; the same one may be there several times.
        side: in pixels, of the result.
        zoom: lowest and highest length, in pixels, to which the shorter side of the image is
            resized before the square is cut; the length is drawn for each square.
    """
    from torchvision.transforms import v2

    low, high = zoom
    windows = []
    for image in images:
        shortest = min(image.shape[1:])
        length = low + (high - low) * float(torch.rand(()))
        cut = min(shortest, max(2, round(side * shortest / length)))
        windows.append(v2.functional.resize(v2.RandomCrop(cut)(image), [side, side]))
    return torch.stack(windows)


def noisy(images: Tensor, deviation: float) -> Tensor:
    """Images (B, C, H, W) with Gaussian noise of this standard deviation; not clipped."""
    from torchvision.transforms.v2 import functional

    result: Tensor = functional.gaussian_noise(images, sigma=deviation, clip=False)
    return result
