"""The networks of EfficientAD: patch description networks and its autoencoder.

Batzner, Heckler, König, "EfficientAD", WACV 2024, arXiv 2303.14535, tables 6 to 8.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillwatch.detectors.blocks.standardisation import imagenet_normalised
from stillwatch.errors import TeacherError
from stillwatch.teachers.networks import read_state

Size = Literal["small", "medium"]
"""small is PDN-S, medium is PDN-M."""
RECEPTIVE_FIELD = 33
"""Receptive field of the patch description networks, in pixels."""
STRIDE = 4
"""Pixels between two descriptors."""
BORDER = 4
"""Descriptors on each side of an image that would need padding, and are left out."""
PUBLIC_CHANNELS = 384
"""Channels of the public weights."""

_SIDE = 256
"""Side of the images for which the sides of the decoder are published."""
_DECODED_SIDES = (3, 8, 15, 32, 63, 127)
_CODED_SIDE = 8
_CODE = 64
_ENCODER_WIDTHS = (32, 32, 64, 64, 64)


class DescriptionNetwork(nn.Sequential):
    """A patch description network without padding, on images normalised as ImageNet's.

    Padding of tables 6 and 7 would add 4 descriptors on each side. The public weights are used
    without, as their authors' code does.

    Args:
        size: of the network.
        outputs: values per descriptor.
    """

    def __init__(self, size: Size, outputs: int) -> None:
        width = 128 if size == "small" else 256
        layers: list[nn.Module] = [*_pooled(3, width), *_pooled(width, 2 * width)]
        if size == "small":
            layers += [nn.Conv2d(256, 256, 3), nn.ReLU(), nn.Conv2d(256, outputs, 4)]
        else:
            layers += [
                nn.Conv2d(512, 512, 1),
                nn.ReLU(),
                nn.Conv2d(512, 512, 3),
                nn.ReLU(),
                nn.Conv2d(512, outputs, 4),
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 1),
            ]
        super().__init__(*layers)
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], sides multiples of 4 -> (B, outputs, H/4 - 8, W/4 - 8)."""
        described: Tensor = super().forward(imagenet_normalised(images))  # type: ignore[no-untyped-call]
        return described

    def load_public(self, path: Path) -> None:
        """Load a public file of weights.

        Args:
            path: a table of tensors whose names are those of nelson1425/EfficientAD
                (``0.weight``, ``0.bias``, ``3.weight`` ...) or of anomalib (``conv1.weight``,
                ``conv1.bias``, ``conv2.weight`` ...). It is read without running code in it.

        Raises:
            TeacherError: no such file, not a table of tensors, or tensors of another network.
        """
        if not path.is_file():
            raise TeacherError(
                f"{path}: no such file. Put the public weights of the patch description network "
                "there, or correct detectors.efficient_ad.teacher_weights."
            )
        given, own = read_state(path), self.state_dict()
        convolutions = [
            name for name, layer in self.named_children() if isinstance(layer, nn.Conv2d)
        ]
        for number, name in enumerate(convolutions, start=1):
            for kind in ("weight", "bias"):
                if f"conv{number}.{kind}" in given:
                    given[f"{name}.{kind}"] = given.pop(f"conv{number}.{kind}")
        shapes, wanted = ({k: tuple(v.shape) for k, v in x.items()} for x in (given, own))
        if shapes != wanted:
            odd = min(shapes.items() ^ wanted.items())[0]
            raise TeacherError(
                f"{path}: does not hold the weights of the network '{self.size}' with "
                f"{PUBLIC_CHANNELS} channels: '{odd}' is {shapes.get(odd, 'missing')}, and must be "
                f"{wanted.get(odd, 'left out')}. Set detectors.efficient_ad.network to the size "
                "that the file is of, or detectors.efficient_ad.teacher_weights to another file."
            )
        self.load_state_dict(given)


class GlobalAutoencoder(nn.Module):
    """Predicts descriptors or features from one code of the whole image.

    Images of 256 pixels meet the authors' layers; with others, what is coded is averaged to the
    same 8×8 positions, and the sides of the decoder's stages are in proportion. Features at a
    stride need fewer layers on the way to the code, and as many fewer on the way back.

    Args:
        outputs: channels of the prediction.
        inputs: channels of what is coded.
        stride: pixels between two positions of what is coded, a power of 2.
    """

    def __init__(self, outputs: int, inputs: int = 3, stride: int = 1) -> None:
        super().__init__()
        self._stride = stride
        skipped = stride.bit_length() - 1
        widths = (inputs, *_ENCODER_WIDTHS[skipped:])
        halvings = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU())
        ]
        self.encoder = nn.Sequential(
            *halvings, nn.AdaptiveAvgPool2d(_CODED_SIDE), nn.Conv2d(64, _CODE, _CODED_SIDE)
        )
        self._sides = _DECODED_SIDES[: len(_DECODED_SIDES) - skipped]
        self.decoder = nn.ModuleList(_decoding() for _ in self._sides)
        self.refine = nn.Sequential(
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, outputs, 3, padding=1)
        )

    def forward(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        """Normalised images or features (B, inputs, h, w) -> (B, outputs, *size)."""
        x = self.encoder(maps)
        sides = [self._stride * side for side in maps.shape[2:]]
        for stage, published in zip(self.decoder, self._sides, strict=True):
            x = stage(_resized(x, [max(1, round(published * s / _SIDE)) for s in sides]))
        predicted: Tensor = self.refine(_resized(x, size))
        return predicted


def _pooled(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 4), nn.ReLU(), nn.AvgPool2d(2, stride=2)


def _decoding() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(64, 64, 4, padding=2), nn.ReLU(), nn.Dropout(0.2))


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
