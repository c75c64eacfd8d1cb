"""Combine the level maps of one whole image into the anomaly map. Needs no torch.

A detector's network gives one map for each of its levels, coarser at deeper levels. What looks at
the whole image follows here, in one implementation for training, PyTorch and exported graphs:
statistics of the image, the fusion of the levels, the Gaussian filter, the background of normals.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, model_validator

from stillwatch.sections import Section

GRID = 4
"""Pixels of the scaled image per position of an anomaly map, where no level is finer."""
LEAST = 1e-6
"""Least divisor."""
MOST_CELLS = 32
"""Rows and columns of a background, at most."""
_FLOAT32 = "<f4"

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
    root is left out.
    """

    offset: FiniteFloat = 0.0
    divisor: FiniteFloat = Field(1.0, gt=0)
    largest_median: FiniteFloat | None = Field(None, ge=0)


class Background(Section):
    """How much higher than elsewhere the maps of normals are at each place of the image.

    In at most 32 × 32 cells over the whole image; subtracted from every map. At borders, at edges
    of the part and where its surface varies, a detector's map is high on normals, too, and the
    maximum over the map would often lie there.
    """

    rows: int = Field(ge=1, le=MOST_CELLS)
    columns: int = Field(ge=1, le=MOST_CELLS)
    values: str = Field(description="base64 of the cells, row by row, little-endian float32")

    @model_validator(mode="after")
    def _has_its_values(self) -> Self:
        if not np.isfinite(self.cells).all():
            raise ValueError("a value of the background is not finite")
        return self

    @classmethod
    def of(cls, maps: Sequence[Map]) -> Self:
        """The mean of the anomaly maps of normals, each less its own mean, shrunk towards 0.

        The mean of few maps, or of parts in any pose, is mostly noise. It is multiplied by
        max(0, 1 - noise / variance), the variance being that over the cells, and the noise that
        part of it which n independent maps would have (James–Stein: Efron & Morris, "Stein's
        estimation rule and its competitors", JASA 68, 1973). Of a single map 0 is left.

        Args:
            maps: at least one, each (h, w).
        """
        rows, columns = (min(MOST_CELLS, *(one.shape[axis] for one in maps)) for axis in (0, 1))
        reduced = [cv2.resize(one, (columns, rows), interpolation=cv2.INTER_AREA) for one in maps]
        cells = np.array([one - one.mean() for one in reduced], np.float64)
        mean = cells.mean(axis=0) * _share_that_is_no_noise(cells)
        values = base64.b64encode(mean.astype(_FLOAT32).tobytes()).decode()
        return cls(rows=rows, columns=columns, values=values)

    @property
    def cells(self) -> Map:
        """float32 (rows, columns)."""
        decoded = np.frombuffer(base64.b64decode(self.values, validate=True), _FLOAT32)
        return decoded.reshape(self.rows, self.columns)

    def enlarged(self, height: int, width: int) -> Map:
        """Bilinear, float32 (height, width)."""
        return np.asarray(cv2.resize(self.cells, (width, height)), np.float32)


def _share_that_is_no_noise(cells: NDArray[np.float64]) -> float:
    """Of the variance, over the cells, of the mean of (n, rows, columns)."""
    variance = float(cells.mean(axis=0).var())
    if len(cells) == 1 or variance == 0:
        return 0.0
    noise = float(cells.var(axis=0, ddof=1).mean()) / len(cells)
    return max(0.0, 1 - noise / variance)


class Combination(Section):
    """Statistics of normals and the fusion of a detector's levels; part of every bundle."""

    levels: tuple[Level, ...] = Field(min_length=1)
    fusion: Literal["sum", "product"] = "sum"
    sigma: FiniteFloat | None = Field(
        None, gt=0, description="of the Gaussian, in pixels of the scaled image; null: none"
    )
    background: Background | None = Field(
        None, description="subtracted from the smoothed map; null: nothing"
    )

    def less_background(self, normals: Sequence[LevelMaps]) -> Self:
        """The same combination, less its background on normals.

        Args:
            normals: level maps of validation normals, at least one.
        """
        background = Background.of([combine(one, self) for one in normals])
        return self.model_copy(update={"background": background})


@np.errstate(over="ignore", invalid="ignore")
def combine(levels: LevelMaps, combination: Combination) -> Map:
    """The anomaly map of one image, float32 (ceil(height / grid), ceil(width / grid)).

    Levels too large for float32 make it infinite.
    """
    fuse = np.add if combination.fusion == "sum" else np.multiply
    fused: Map = reduce(
        fuse,
        (
            on_grid(normalised(level_map, level), stride, levels)
            for level_map, stride, level in zip(
                levels.maps, levels.strides, combination.levels, strict=True
            )
        ),
    )
    if combination.sigma is not None:
        fused = smoothed(fused, combination.sigma / levels.grid)
    if combination.background is not None:
        fused -= combination.background.enlarged(*fused.shape)
    return fused


def normalised(level_map: Map, level: Level) -> Map:
    """One level's map in the units of ``Level``, float32."""
    divisor = level.divisor
    if level.largest_median is not None:
        divisor *= max(LEAST, min(median(level_map), level.largest_median)) ** 0.5
    return (level_map - np.float32(level.offset)) / np.float32(divisor)


def median(level_map: Map) -> float:
    """The lower one of two."""
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
