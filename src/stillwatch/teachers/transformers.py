"""Feature maps of timm's vision transformers, at one stride for any patch size and image shape."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from timm.models import VisionTransformer

_TAPPED = range(2, 10)
"""Blocks whose outputs are wanted, in twelfths of a network's depth."""
_CUBIC = -0.5
"""Keys' parameter of the bicubic kernel."""


class TransformerLevels(nn.Module):
    """The patch tokens of a transformer's middle blocks, averaged in groups.

    Guo et al., "Dinomaly", CVPR 2025, arXiv 2405.14325, section 3: of a network with 12 blocks the
    outputs of blocks 2 to 9, counted from 0; of one with 24, of blocks 4, 6, ..., 18. Class and
    register tokens take part in the attention and are then left out.

    Images are resized bilinearly by patch size / stride, so that a token stands for a square of
    ``stride`` pixels. Position embeddings are resized to the tokens of the image as timm resizes
    them, in operations that every graph format has.

    Args:
        network: timm's, made with ``dynamic_img_size``; its tensors keep their names.
        groups: levels; 8 is a multiple of it.
        stride: of every level, in pixels.
    """

    def __init__(self, network: "VisionTransformer", groups: int, stride: int) -> None:
        super().__init__()
        taps = [len(network.blocks) * twelfth // 12 for twelfth in _TAPPED]
        size = len(taps) // groups
        self.groups = [taps[first : first + size] for first in range(0, len(taps), size)]
        self._stride = stride
        self.patch_embed = network.patch_embed
        self.cls_token = network.cls_token
        self.reg_token = network.reg_token
        self.pos_embed = network.pos_embed
        self.norm_pre = network.norm_pre
        self.blocks = network.blocks[: taps[-1] + 1]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (B, C, H / stride, W / stride), shallow to deep, of normalised images."""
        rows, columns = (side // self._stride for side in images.shape[2:])
        patch = self.patch_embed.patch_size
        size = [rows * patch[0], columns * patch[1]]
        resized = F.interpolate(images, size, mode="bilinear", align_corners=False)
        tokens = self._embedded(self.patch_embed(resized))
        outputs = []
        for block in self.blocks:
            tokens = block(tokens)
            outputs.append(tokens)
        return [
            torch.stack([outputs[tap][:, -rows * columns :] for tap in group])
            .mean(dim=0)
            .transpose(1, 2)
            .unflatten(2, (rows, columns))  # type: ignore[no-untyped-call]
            for group in self.groups
        ]

    def _embedded(self, patches: Tensor) -> Tensor:
        """(B, rows, columns, C) to tokens (B, prefix + rows * columns, C)."""
        height, width = self.patch_embed.grid_size
        before, grid = self.pos_embed.tensor_split([-height * width], dim=1)
        positions = torch.einsum(
            "yi,xj,bijc->byxc",
            resizing_matrix(height, patches.shape[1]).to(grid),
            resizing_matrix(width, patches.shape[2]).to(grid),
            grid.unflatten(1, (height, width)),
        )
        prefix = torch.cat([x for x in (self.cls_token, self.reg_token) if x is not None], dim=1)
        if before.shape[1]:  # otherwise class and register tokens have no position
            prefix = prefix + before
        tokens = (patches + positions).flatten(1, 2)
        joined = torch.cat([prefix.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        embedded: Tensor = self.norm_pre(joined)
        return embedded


def resizing_matrix(old: int, new: int) -> Tensor:
    """Bicubic interpolation with antialiasing of ``old`` values to ``new``: float32 (new, old).

    As ``torch.nn.functional.interpolate(..., mode="bicubic", antialias=True)`` along one side. A
    resampling operator with antialiasing is not in every graph format; a product with a matrix is.
    """
    scale = old / new
    centres = (torch.arange(new) + 0.5) * scale
    distances = (torch.arange(old) + 0.5 - centres[:, None]).abs() / max(scale, 1.0)
    near = ((_CUBIC + 2) * distances - (_CUBIC + 3)) * distances**2 + 1
    far = _CUBIC * (((distances - 5) * distances + 8) * distances - 4)
    weights = torch.where(distances < 1, near, torch.where(distances < 2, far, 0.0))
    return weights / weights.sum(dim=1, keepdim=True)
