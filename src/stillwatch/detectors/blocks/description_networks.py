"""The networks of EfficientAD: patch description networks and its autoencoder.

Batzner, Heckler, König, "EfficientAD", WACV 2024, arXiv 2303.14535, tables 6 to 8.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

Size = Literal["tiny", "small", "medium"]
"""small is PDN-S, medium is PDN-M; tiny is our own, half as wide as small."""
RECEPTIVE_FIELD = 33
"""Receptive field of the patch description networks, in pixels."""
STRIDE = 4
"""Pixels between two descriptors."""

_SIDE = 256
"""Side of the images for which the sides of the decoder are published."""
_DECODED_SIDES = (3, 8, 15, 32, 63, 127)
_CODED_SIDE = 8
_CODE = 64


def description_network(size: Size, outputs: int) -> nn.Sequential:
    """A network with the authors' paddings: (B, 3, H, W) -> (B, outputs, H/4, W/4).

    Sides are multiples of 4.
    """
    if size != "medium":
        width = 128 if size == "small" else 64
        return nn.Sequential(
            *_pooled(3, width),
            *_pooled(width, 2 * width),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, outputs, 4),
        )
    return nn.Sequential(
        *_pooled(3, 256),
        *_pooled(256, 512),
        nn.Conv2d(512, 512, 1),
        nn.ReLU(),
        nn.Conv2d(512, 512, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(512, outputs, 4),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 1),
    )


class GlobalAutoencoder(nn.Module):
    """Predicts the output of a patch description network from one code of the whole image.

    Images of 256 pixels meet the authors' layers; with others, what is coded is averaged to the
    same 8×8 positions, and the sides of the decoder's stages are in proportion.

    Args:
        outputs: channels of the prediction.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        widths = (3, 32, 32, 64, 64, 64)
        halvings = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU())
        ]
        self.encoder = nn.Sequential(
            *halvings, nn.AdaptiveAvgPool2d(_CODED_SIDE), nn.Conv2d(64, _CODE, _CODED_SIDE)
        )
        self.decoder = nn.ModuleList(_decoding() for _ in _DECODED_SIDES)
        self.refine = nn.Sequential(
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, outputs, 3, padding=1)
        )

    def forward(self, images: Tensor, size: Sequence[int]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> (B, outputs, *size)."""
        x = self.encoder(images)
        for stage, published in zip(self.decoder, _DECODED_SIDES, strict=True):
            x = stage(_resized(x, [max(1, round(published * s / _SIDE)) for s in images.shape[2:]]))
        predicted: Tensor = self.refine(_resized(x, size))
        return predicted


def _pooled(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 4, padding=3)
    return convolution, nn.ReLU(), nn.AvgPool2d(2, stride=2, padding=1)


def _decoding() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(64, 64, 4, padding=2), nn.ReLU(), nn.Dropout(0.2))


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
