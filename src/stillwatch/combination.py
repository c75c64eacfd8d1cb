"""Combine the level maps of one whole image into the anomaly map. Needs no torch.

A detector's network gives one map for each of its levels, coarser at deeper levels. What looks at
the whole image follows here, in one implementation for training, PyTorch and exported graphs:
statistics of the image, the Gaussian filter, statistics of normals, and the fusion of the levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from stillwatch.position_statistics import PositionStatistics
from stillwatch.sections import Section

GRID = 4
"""Pixels of the scaled image per position of an anomaly map, where no level is finer."""
LEAST = 1e-6
"""Least divisor."""

Map = NDArray[np.float32]


@dataclass(frozen=True)
class LevelMaps:
    """The level maps of one whole image, stitched from its tiles, without padding."""

    maps: tuple[Map, ...]
    """Of each level, (ceil(height / stride), ceil(width / stride))."""
    strides: tuple[int, ...]
    """Pixels of the scaled image per position of each level."""
    height: int
    """Of the scaled image in pixels."""
    width: int

    @property
    def grid(self) -> int:
        """Pixels of the scaled image per position of the anomaly map."""
        return min(GRID, *self.strides)

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width of what the anomaly map covers, relative to the image.

        A little more than 1 where the last position of the map reaches beyond the image.
        """
        height, width = (
            -(-side // self.grid) * self.grid / side for side in (self.height, self.width)
        )
        return height, width


class Level(Section):
    """How one level's map m enters: (m - offset) / (divisor · sqrt(min(median, largest_median))).

    The median is that of the level's map in the same image. Without ``largest_median`` the square
    root is left out. The result is smoothed, then standardised by ``positions``, if any, and last
    multiplied by ``weight``.
    """

    offset: FiniteFloat = 0.0
    divisor: FiniteFloat = Field(1.0, gt=0)
    largest_median: FiniteFloat | None = Field(None, ge=0)
    positions: PositionStatistics | None = None
    weight: FiniteFloat = Field(1.0, gt=0)


class Combination(Section):
    """Statistics of normals and the fusion of a detector's levels; part of every bundle."""

    levels: tuple[Level, ...] = Field(min_length=1)
    fusion: Literal["sum", "product"] = "sum"
    sigma: FiniteFloat | None = Field(
        None, gt=0, description="of the Gaussian, in pixels of the scaled image; null: none"
    )


@np.errstate(over="ignore", invalid="ignore")
def combine(levels: LevelMaps, combination: Combination) -> Map:
    """The anomaly map of one image, float32 (ceil(height / grid), ceil(width / grid)).

    Levels too large for float32 make it infinite.

    Raises:
        ValueError: the combination is of another number of levels.
    """
    if len(levels.maps) != len(combination.levels):
        raise ValueError(f"{len(levels.maps)} levels, {len(combination.levels)} are combined")
    fuse = np.add if combination.fusion == "sum" else np.multiply
    maps = (
        level_on_grid(levels, number, level, combination.sigma)
        for number, level in enumerate(combination.levels)
    )
    fused: Map = reduce(fuse, maps)
    return fused


def standardised_by_normals(
    normals: Sequence[LevelMaps], sigma: float, weights: Sequence[float] | None = None
) -> Combination:
    """Weighted sum over the levels, each relative to its image and to normals at the same place.

    A level's map is divided by the square root of its median in the image: a part in an unseen
    pose, or in other light, is reconstructed a little worse everywhere, a defect at its place only.
    The divisor is at most the largest median of the normals, so that an image with defects
    everywhere keeps its high score. Smoothed, the map is then standardised by
    ``PositionStatistics``, so that neither the noisiest level nor the noisiest place decides.

    Args:
        normals: level maps of validation normals, at least one.
        sigma: of the Gaussian, in pixels of the scaled image.
        weights: of the levels; None: all are 1.
    """
    weights = weights or (1.0,) * len(normals[0].maps)
    levels = tuple(
        _standardised_level(normals, number, sigma, weight) for number, weight in enumerate(weights)
    )
    return Combination(levels=levels, sigma=sigma)


def _standardised_level(
    normals: Sequence[LevelMaps], number: int, sigma: float, weight: float
) -> Level:
    level = Level(largest_median=max(median(one.maps[number]) for one in normals))
    maps = [level_on_grid(one, number, level, sigma) for one in normals]
    return level.model_copy(update={"positions": PositionStatistics.of(maps), "weight": weight})


def level_on_grid(levels: LevelMaps, number: int, level: Level, sigma: float | None) -> Map:
    """One level's map as it is fused: (ceil(height / grid), ceil(width / grid)), float32."""
    found = on_grid(normalised(levels.maps[number], level), levels.strides[number], levels)
    if sigma is not None:
        found = smoothed(found, sigma / levels.grid)
    if level.positions is not None:
        found = level.positions.standardised(found)
    return found * np.float32(level.weight)


def normalised(level_map: Map, level: Level) -> Map:
    """One level's map in the units of ``Level``, float32."""
    divisor = level.divisor
    if level.largest_median is not None:
        divisor *= max(LEAST, min(median(level_map), level.largest_median)) ** 0.5
    return (level_map - np.float32(level.offset)) / np.float32(divisor)


def median(level_map: Map) -> float:
    """Median; of an even number of values, the lower of the two middle ones."""
    middle = (level_map.size - 1) // 2
    return float(np.partition(level_map, middle, axis=None)[middle])


def on_grid(level_map: Map, stride: int, levels: LevelMaps) -> Map:
    """Enlarge a level's map to the grid of the anomaly map: bilinear, the outermost values stay so.

    As with ``align_corners`` in reverse distillation's code. Values at the edge of a level, which
    are computed from padding, then cover less of the map than with half-pixel centres.
    """
    rows, columns = (-(-side // levels.grid) for side in (levels.height, levels.width))
    if stride == levels.grid:
        return level_map[:rows, :columns]
    return np.ascontiguousarray(_stretched(_stretched(level_map, rows).T, columns).T)


def _stretched(values: Map, length: int) -> Map:
    """Linear interpolation of the rows of (n, w) at ``length`` places from first to last."""
    places = np.linspace(0, len(values) - 1, length)
    below = places.astype(np.intp)
    above = np.minimum(below + 1, len(values) - 1)
    part = (places - below).astype(np.float32)[:, None]
    return values[below] * (1 - part) + values[above] * part


def smoothed(values: Map, sigma: float) -> Map:
    """Gaussian filter as ``scipy.ndimage.gaussian_filter``: to 4 sigma, mirrored at the edges."""
    side = 2 * int(4 * sigma + 0.5) + 1
    blurred = cv2.GaussianBlur(
        values, (side, side), sigma, sigmaY=sigma, borderType=cv2.BORDER_REFLECT
    )
    return np.asarray(blurred, np.float32)
