"""From an image file's pixels to the tiles that a network sees: scale, shape and positions.

The aspect ratio of an image is always kept. With ``fit`` an image is scaled as a whole, and there
is one tile; with a factor the image is scaled by it and cut into overlapping tiles. No torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from stillwatch.sections import Section

if TYPE_CHECKING:  # every command of the command line reads the settings, and these need no numpy
    import numpy as np
    from numpy.typing import NDArray

STRIDE = 32
"""Pixels. Sides and positions of tiles are multiples of the largest stride of any network, so that
the feature maps of neighbouring tiles lie on one grid."""

_SIGMA, _SIGMA_SIZE = 4.0, 256

Shape = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Tile:
    """The position of a tile in a scaled image, in pixels."""

    top: int
    left: int


class Geometry(Section):
    """How a category's images are scaled, and the shape of the tiles; part of every bundle."""

    scale: float | None = Field(
        description="factor on the file's own pixels; null: scaled to fit into `box`"
    )
    box: Shape | None = Field(
        description="height and width that images are scaled to fit into; null with a factor"
    )
    tile: Shape = Field(description="height and width of what the network sees; multiples of 32")
    overlap: int = Field(
        ge=0,
        description="pixels that neighbouring tiles share, at least; less where a side of the tile "
        "is not 32 longer",
    )

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if (self.scale is None) == (self.box is None):
            raise ValueError("a geometry has either a scale or a box")
        if any(side < 1 or side % STRIDE for side in self.tile):
            raise ValueError(f"the sides of a tile are multiples of {STRIDE}")
        return self

    def __str__(self) -> str:
        """Such as ``256×256`` or ``×0.5 in tiles of 256×256``: width by height."""
        height, width = self.tile if self.box is None else self.box
        shape = f"{width}×{height}"
        return shape if self.scale is None else f"×{self.scale:g} in tiles of {shape}"

    @property
    def sigma(self) -> float:
        """Standard deviation of the Gaussian on anomaly maps, in pixels of the scaled image.

        The papers use 4 pixels at 256. A fitted image is smoothed in proportion to its longer side,
        so that a defect of the same size on the part is smoothed alike at any size.
        """
        return _SIGMA if self.box is None else _SIGMA * max(self.box) / _SIGMA_SIZE

    def scaled_shape(self, height: int, width: int) -> Shape:
        """Height and width of an image after scaling, each at least 1."""
        if self.box is None:
            factor = self.scale or 1.0
            return max(1, round(height * factor)), max(1, round(width * factor))
        touches = height == self.box[0] or width == self.box[1]
        if touches and height <= self.box[0] and width <= self.box[1]:
            return height, width  # scaled already
        # The box is rounded: half a pixel more lets the longer side fill it.
        factor = min((self.box[0] + 0.5) / height, (self.box[1] + 0.5) / width)
        return (
            min(self.box[0], max(1, round(height * factor))),
            min(self.box[1], max(1, round(width * factor))),
        )

    def tiles(self, height: int, width: int) -> list[Tile]:
        """Positions of the tiles of a scaled image, row by row."""
        rows, columns = self.starts(height, width)
        return [Tile(top, left) for top in rows for left in columns]

    def starts(self, height: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tops and lefts of the tiles of a scaled image, each ascending."""
        return (
            positions(height, self.tile[0], self.overlap),
            positions(width, self.tile[1], self.overlap),
        )

    def cut(self, image: "NDArray[np.uint8]", tile: Tile) -> "NDArray[np.uint8]":
        """One tile of a scaled image, uint8 (h, w, 3); beyond the image, its edge is repeated."""
        height, width = self.tile
        pixels = image[tile.top : tile.top + height, tile.left : tile.left + width]
        below, right = height - pixels.shape[0], width - pixels.shape[1]
        if below or right:
            import numpy as np

            pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="edge")
        return pixels


def fitted(shapes: Sequence[Shape], size: int) -> Geometry:
    """The geometry that scales images as a whole.

    Args:
        shapes: of the files of the training images, at least one; their median decides.
        size: longer side of the scaled images, in pixels.
    """
    height, width = median_shape(shapes)
    longer = max(height, width)
    box = max(1, round(size * height / longer)), max(1, round(size * width / longer))
    return Geometry(scale=None, box=box, tile=(_up(box[0]), _up(box[1])), overlap=0)


def tiled(shapes: Sequence[Shape], scale: float, size: int, overlap: int) -> Geometry:
    """The geometry that scales images by a factor and cuts them into tiles.

    Args:
        shapes: of the files of the training images, at least one; where all are shorter than a tile
            along a side, tiles are as long there as the longest.
        scale: factor on the file's own pixels.
        size: side of a tile in pixels, a multiple of 32.
        overlap: pixels that neighbouring tiles share, less than ``size``.
    """
    height, width = (max(1, round(max(sides) * scale)) for sides in zip(*shapes, strict=True))
    tile = min(size, _up(height)), min(size, _up(width))
    return Geometry(scale=scale, box=None, tile=tile, overlap=overlap)


def positions(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """Positions of tiles along one side of an image, ascending multiples of 32.

    The last tile ends at the side's length, rounded up to a multiple of 32, so that only there an
    image is padded, unless it is smaller than a tile.
    """
    last = max(0, _up(length) - tile)
    step = max(STRIDE, (tile - overlap) // STRIDE * STRIDE)
    return (*range(0, last, step), last)


def median_shape(shapes: Sequence[Shape]) -> Shape:
    """The shape of the image whose aspect ratio is the median, of the larger where two are."""
    ordered = sorted(shapes, key=lambda shape: (shape[1] / shape[0], shape))
    return ordered[len(ordered) // 2]


def _up(length: int) -> int:
    return -(-length // STRIDE) * STRIDE
