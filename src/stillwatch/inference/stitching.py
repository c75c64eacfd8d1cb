"""Cut images into tiles, run a scorer on batches of tiles, and stitch the level maps. No torch."""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stillwatch.combination import LevelMaps, Map
from stillwatch.errors import DetectorError
from stillwatch.geometry import Geometry
from stillwatch.images.decode import Pixels

_USUAL_TILE = 256 * 256
"""Pixels."""


class Scorer(Protocol):
    """The network of a detector, in float32."""

    def __call__(self, tiles: NDArray[np.uint8], /) -> list[NDArray[np.float32]]:
        """Map uint8 tiles (B, H, W, 3) to level maps, float32 (B, H / stride, W / stride) each."""
        ...


class _Canvas:
    """The level maps of one image, filled tile by tile."""

    def __init__(self, geometry: Geometry, height: int, width: int) -> None:
        self.tiles = geometry.tiles(height, width)
        self._starts = geometry.starts(height, width)
        self._geometry = geometry
        self._shape = height, width
        self._filled = 0
        self._strides: list[int] = []
        self._maps: list[Map] = []

    @property
    def is_full(self) -> bool:
        return self._filled == len(self.tiles)

    def add(self, levels: list[Map]) -> None:
        """Add the level maps of the next tile."""
        if not self._maps:
            self._start(levels)
        row, column = divmod(self._filled, len(self._starts[1]))
        tile = self.tiles[self._filled]
        for stride, stitched, level in zip(self._strides, self._maps, levels, strict=True):
            top, left = tile.top // stride, tile.left // stride
            part = stitched[top : top + level.shape[0], left : left + level.shape[1]]
            height, width = part.shape
            rows, columns = (
                blending_weights(starts, length, stride)
                for starts, length in zip(self._starts, self._geometry.tile, strict=True)
            )
            weights = rows[row, :height, None] * columns[column, :width]
            part += weights * level[:height, :width]
        self._filled += 1

    def finished(self) -> LevelMaps:
        return LevelMaps(tuple(self._maps), tuple(self._strides), *self._shape)

    def _start(self, levels: list[Map]) -> None:
        for level in levels:
            stride = self._geometry.tile[0] // level.shape[0]
            self._strides.append(stride)
            self._maps.append(np.zeros([-(-side // stride) for side in self._shape], np.float32))


@lru_cache(maxsize=256)
def blending_weights(starts: tuple[int, ...], tile: int, stride: int) -> NDArray[np.float32]:
    """Weights of tiles along one side of an image; at each position they sum to 1.

    The weight of a tile is 1 where no other tile reaches, and falls linearly to almost 0 at an edge
    that a neighbour covers: features near the edge of a tile are computed from padding.

    Args:
        starts: positions of the tiles in pixels, ascending.
        tile: length of a tile in pixels.
        stride: pixels per position of the level.

    Returns:
        float32 (tiles, tile / stride).
    """
    centres = (np.arange(tile // stride) + 0.5) * stride
    weights = np.ones((len(starts), tile // stride))
    for index, start in enumerate(starts):
        before = starts[index - 1] + tile - start if index else 0
        after = start + tile - starts[index + 1] if index + 1 < len(starts) else 0
        if before > 0:
            weights[index] *= np.minimum(1, centres / before)
        if after > 0:
            weights[index] *= np.minimum(1, (tile - centres) / after)
    total = np.zeros((starts[-1] + tile) // stride)
    covered = [slice(start // stride, (start + tile) // stride) for start in starts]
    for part, row in zip(covered, weights, strict=True):
        total[part] += row
    for part, row in zip(covered, weights, strict=True):
        row /= total[part]
    return weights.astype(np.float32)


def level_maps(
    scorer: Scorer, geometry: Geometry, images: Iterable[Pixels], batch_size: int
) -> Iterator[LevelMaps]:
    """The stitched level maps of scaled images, in their order.

    Args:
        scorer: the network.
        geometry: how images are cut into tiles.
        images: scaled, uint8 (h, w, 3) each; the shapes may differ.
        batch_size: tiles per call of the scorer; fewer where tiles have more than 256 × 256
            pixels, so that a batch needs no more memory.

    Raises:
        DetectorError: the scorer returns maps of another type or shape, or not finite numbers.
    """
    tile_pixels = geometry.tile[0] * geometry.tile[1]
    batch_size = max(1, min(batch_size, batch_size * _USUAL_TILE // tile_pixels))
    unfinished: deque[_Canvas] = deque()

    def cut_into_tiles() -> Iterator[tuple[_Canvas, Pixels]]:
        for image in images:
            canvas = _Canvas(geometry, image.shape[0], image.shape[1])
            unfinished.append(canvas)
            for tile in canvas.tiles:
                yield canvas, geometry.cut(image, tile)

    tiles = cut_into_tiles()
    while batch := list(islice(tiles, batch_size)):
        levels = _checked(scorer, [pixels for _, pixels in batch])
        for index, (canvas, _) in enumerate(batch):
            canvas.add([level[index] for level in levels])
        while unfinished and unfinished[0].is_full:
            yield unfinished.popleft().finished()


def _checked(scorer: Scorer, batch: list[Pixels]) -> list[NDArray[np.float32]]:
    tiles = np.stack(batch)
    levels = scorer(tiles)
    count, height, width = tiles.shape[:3]
    for level in levels:
        fits = level.dtype == np.float32 and level.ndim == 3 and len(level) == count
        if not fits or height % level.shape[1] or level.shape[2] * height != width * level.shape[1]:
            raise DetectorError(
                f"the scorer returned {level.dtype} maps of shape {level.shape} for tiles of shape "
                f"{tiles.shape}; they must be float32 (B, H / stride, W / stride). Fix the method."
            )
        # NaN is above no threshold: the image would pass.
        if not np.isfinite(level).all():
            raise DetectorError(
                "the anomaly maps are not finite numbers, so no verdict can be given: the detector "
                "is broken. Train it again, with a smaller learning rate."
            )
    return levels
