"""Networks that describe small patches, and their dense evaluation on an image.

Bergmann, Fauser, Sattlegger, Steger, "Uninformed Students", CVPR 2020, arXiv 1911.02357, section
3.1 and appendix. All strides are in the pooling layers. Dense evaluation replaces a pool of stride
2 by one of stride 1 and dilates every later layer twice as much, which gives what Bailer,
Habtegebrial, Varanasi, Stricker, "Fast Dense Feature Extraction with CNNs that have Pooling or
Striding Layers", BMVC 2017, compute by shifting and interleaving: the same weights, the same
values.

The printed tables leave some layers open; where they do, these are the sizes that the printed
output sizes force, and 128 channels in the third layer of the network for patches of 65 pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillwatch.detectors.blocks.standardisation import imagenet_normalised
from stillwatch.errors import DetectorError

DESCRIPTOR = 128
"""Number of values that describe a patch."""
_SLOPE = 0.005

PatchSize = Literal[17, 33, 65]
Stride = Literal[1, 2, 4, 8, 16]


@dataclass(frozen=True)
class _Convolution:
    kernel: int
    channels: int
    linear: bool = False


_POOL = "pool"
"""Max-pooling over 2×2 with stride 2."""
_LAYERS: dict[int, tuple[_Convolution | str, ...]] = {
    17: (
        _Convolution(6, 128),
        _Convolution(5, 256),
        _Convolution(5, 256),
        _Convolution(4, DESCRIPTOR, linear=True),
    ),
    33: (
        _Convolution(5, 128),
        _POOL,
        _Convolution(5, 256),
        _POOL,
        _Convolution(2, 256),
        _Convolution(4, DESCRIPTOR, linear=True),
    ),
    65: (
        _Convolution(5, 128),
        _POOL,
        _Convolution(5, 128),
        _POOL,
        _Convolution(5, 128),
        _POOL,
        _Convolution(4, 256),
        _Convolution(1, DESCRIPTOR, linear=True),
    ),
}


class PatchNetwork(nn.Module):
    """Describes patches of 17, 33 or 65 pixels by 128 values.

    Images are normalised as ImageNet's; the paper leaves their normalisation open.
    The receptive field is 17, 32 or 60 pixels: where a pool meets an odd side, the last row and
    column are not seen.
    """

    def __init__(self, patch_size: PatchSize) -> None:
        super().__init__()
        self.patch_size = patch_size
        self._layers = _LAYERS[patch_size]
        self.receptive_field = _receptive_field(self._layers)
        convolutions = [layer for layer in self._layers if isinstance(layer, _Convolution)]
        inputs = [3, *(layer.channels for layer in convolutions)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, layer.channels, layer.kernel)
            for before, layer in zip(inputs, convolutions, strict=False)
        )

    def forward(self, images: Tensor, stride: Stride | None = None) -> Tensor:
        """Descriptors of the patches whose top left corners lie at multiples of ``stride``.

        Args:
            images: float (B, 3, H, W) in [0, 1], sides at least ``receptive_field``.
            stride: in pixels; None: as the network itself strides, which on one patch gives its one
                descriptor.

        Returns:
            float (B, 128, (H - r) // stride + 1, (W - r) // stride + 1) with r the receptive field.
        """
        pools = self._layers.count(_POOL)
        wanted = 2**pools if stride is None else stride
        done, dilation = 1, 1
        x = imagenet_normalised(images)
        parameters = iter(self.convolutions.parameters())
        last = self._last_wide()
        for index, layer in enumerate(self._layers):
            if isinstance(layer, _Convolution):
                weight, bias = next(parameters), next(parameters)
                step = wanted // done if index == last else 1
                x = F.conv2d(x, weight, bias, step, 0, dilation)
                x = x if layer.linear else F.leaky_relu(x, _SLOPE, inplace=True)
            elif done < wanted:
                x, done = F.max_pool2d(x, 2, stride=2), 2 * done
            else:
                x, dilation = F.max_pool2d(x, 2, stride=1, dilation=dilation), 2 * dilation
        return x

    def dense(self, images: Tensor, stride: Stride) -> Tensor:
        """A descriptor of the surroundings of every ``stride``-th pixel, mirrored at the edges.

        Args:
            images: float (B, 3, H, W) in [0, 1], sides more than half of ``patch_size``.
            stride: in pixels.

        Returns:
            float (B, 128, ceil(H / stride), ceil(W / stride)); value (r, c) describes the patch
            around the middle of the square of ``stride`` pixels at (stride r, stride c).
        """
        return self.forward(self.padded(images, stride), stride)

    def padded(self, images: Tensor, stride: Stride) -> Tensor:
        """Pad images by mirroring, so that ``forward`` gives the result of ``dense``."""
        before = self.patch_size // 2 - stride // 2
        after = self.receptive_field - 1 - before
        return F.pad(images, (before, after, before, after), mode="reflect")

    def _last_wide(self) -> int:
        """Index of the last layer whose kernel is wider than 1; this layer has the stride."""
        wide = (
            index
            for index, layer in enumerate(self._layers)
            if isinstance(layer, _Convolution) and layer.kernel > 1
        )
        return max(wide)


def _receptive_field(layers: Sequence[_Convolution | str]) -> int:
    field, jump = 1, 1
    for layer in layers:
        if isinstance(layer, _Convolution):
            field += (layer.kernel - 1) * jump
        else:
            field, jump = field + jump, 2 * jump
    return field


def require_sides(sides: Sequence[int], patch_size: int, method: str) -> None:
    """Raise if images are smaller than a patch.

    Args:
        sides: of the images, in pixels.
        patch_size: in pixels.
        method: its name.
    """
    if min(sides) < patch_size:
        raise DetectorError(
            f"{method}: images of {sides[1]}×{sides[0]} pixels are smaller than the {patch_size} "
            "pixels that its patch network needs. Raise images.size or images.scale until the "
            f"shorter side is {patch_size} pixels or more."
        )
