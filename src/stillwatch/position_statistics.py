"""Mean and deviation of the level maps of normals at each place of the image.

At borders, at edges of the part and where its surface varies, a detector's maps are higher on
normals, too, and the maximum of the anomaly map would often lie there. Each position is therefore
held against the normals at the same place, as in PaDiM (Defard et al., ICPR 2021, section III-B),
with one number per level in place of a vector of features.
"""

import base64
from collections.abc import Sequence
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stillwatch.sections import Section

MOST_CELLS = 32
"""Rows and columns, at most: larger maps are averaged within the cells."""
PRIOR_NORMALS = 30
"""So many normals must be there for the variance at a place to count as much as that of all."""
_LEAST_VARIANCE = 1e-12
_FLOAT32 = "<f4"

Map = NDArray[np.float32]
Cells = NDArray[np.float64]


class PositionStatistics(Section):
    """Of one level, in at most 32 × 32 cells over the whole image."""

    rows: int = Field(ge=1, le=MOST_CELLS)
    columns: int = Field(ge=1, le=MOST_CELLS)
    means: str = Field(description="base64 of the cells, row by row, little-endian float32")
    deviations: str = Field(description="likewise")

    @model_validator(mode="after")
    def _has_its_values(self) -> Self:
        means, deviations = self._cells(self.means), self._cells(self.deviations)
        if not (np.isfinite(means).all() and np.isfinite(deviations).all()):
            raise ValueError("a mean or a deviation is not finite")
        if not (deviations > 0).all():
            raise ValueError("a deviation is not positive")
        return self

    @classmethod
    def of(cls, maps: Sequence[Map]) -> Self:
        """Measure the smoothed maps of one level on normals.

        Args:
            maps: at least one, each (h, w).
        """
        rows, columns = (min(MOST_CELLS, *(one.shape[axis] for one in maps)) for axis in (0, 1))
        means = _means(np.stack([_reduced(one, rows, columns) for one in maps]))
        squares = np.stack(
            [_reduced(np.square(one - _enlarged(means, *one.shape)), rows, columns) for one in maps]
        )
        return cls(
            rows=rows,
            columns=columns,
            means=_encoded(means),
            deviations=_encoded(np.sqrt(_variances(squares))),
        )

    def standardised(self, level_map: Map) -> Map:
        """(map - mean) / deviation at each position of (h, w); between the cells bilinear."""
        means, deviations = (
            _enlarged(self._cells(values), *level_map.shape)
            for values in (self.means, self.deviations)
        )
        return np.asarray((level_map - means) / deviations, np.float32)

    def _cells(self, values: str) -> Map:
        decoded = np.frombuffer(base64.b64decode(values, validate=True), _FLOAT32)
        return decoded.reshape(self.rows, self.columns)


def _means(cells: Cells) -> Cells:
    """(rows, columns) of (n, rows, columns): what is above the mean of all is shrunk.

    The mean of few maps, or of parts in any pose, is mostly noise. What it has above its own mean
    is multiplied by max(0, 1 - noise / variance), where the variance is that over the cells, and
    the noise that part of it which the mean of n independent maps would have (James–Stein: Efron &
    Morris, "Stein's estimation rule and its competitors", JASA 68, 1973).
    """
    above = cells - cells.mean(axis=(1, 2), keepdims=True)
    pattern = above.mean(axis=0)
    variance = pattern.var()
    share = 0.0
    if len(cells) > 1 and variance > 0:
        noise = above.var(axis=0, ddof=1).mean() / len(cells)
        share = max(0.0, 1 - noise / variance)
    return np.asarray(cells.mean() + share * pattern)


def _variances(squares: Cells) -> Cells:
    """(rows, columns) of the squared distances from the mean, (n, rows, columns).

    The variance of few values is uncertain: that of all cells counts as 30 further normals.
    """
    own = squares.mean(axis=0)
    weight = len(squares) / (len(squares) + PRIOR_NORMALS)
    return np.asarray(np.maximum(_LEAST_VARIANCE, weight * own + (1 - weight) * own.mean()))


def _reduced(values: NDArray[np.floating], rows: int, columns: int) -> Cells:
    return np.asarray(cv2.resize(values, (columns, rows), interpolation=cv2.INTER_AREA), np.float64)


def _enlarged(cells: NDArray[np.floating], height: int, width: int) -> Map:
    return np.asarray(cv2.resize(cells.astype(np.float32), (width, height)))


def _encoded(cells: Cells) -> str:
    return base64.b64encode(cells.astype(_FLOAT32).tobytes()).decode()
