"""Cut out the part of a large image around its highest score, for pictures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillwatch.inference.inspector import InspectedImage
from stillwatch.inference.resizing import resize_map

LARGEST_WHOLE = 512
"""Longer side, in pixels after scaling, up to which an image is shown as a whole only."""
SIDE = 240
"""Of a close-up in pixels; a multiple of the grid of every anomaly map."""


@dataclass(frozen=True)
class CloseUp:
    """A part of an image around the maximum of its anomaly map, in pixels of the scaled image."""

    top: int
    left: int
    height: int
    width: int
    anomaly_map: NDArray[np.float32]
    """Of this part, raw, as the inspection gave it; it may reach beyond the image's edge."""
    grid: int
    """Pixels per position of the map."""

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns in the scaled image."""
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )

    def map_at(self, height: int, width: int) -> NDArray[np.float32]:
        """The map at this size of the part; the pixel at the maximum keeps the maximum."""
        rows, columns = self.anomaly_map.shape
        extent = rows * self.grid / self.height, columns * self.grid / self.width
        return resize_map(self.anomaly_map, height, width, extent)


def close_up(image: InspectedImage, height: int, width: int) -> CloseUp | None:
    """The part around the highest score; None where the image is small enough to be shown.

    Args:
        image: the result of the inspection.
        height: of the scaled image in pixels.
        width: of the scaled image in pixels.
    """
    if max(height, width) <= LARGEST_WHOLE:
        return None
    rows, columns = image.anomaly_map.shape
    grid = round(image.extent[0] * height / rows)
    peak = np.unravel_index(image.anomaly_map.argmax(), (rows, columns))
    part_rows, part_columns = (
        _around(int(index), count, SIDE // grid)
        for index, count in zip(peak, (rows, columns), strict=True)
    )
    top, left = part_rows.start * grid, part_columns.start * grid
    return CloseUp(
        top=top,
        left=left,
        height=min(part_rows.stop * grid, height) - top,
        width=min(part_columns.stop * grid, width) - left,
        anomaly_map=image.anomaly_map[part_rows, part_columns].copy(),
        grid=grid,
    )


def _around(index: int, count: int, length: int) -> slice:
    """``length`` positions out of ``count``, or all, with ``index`` in the middle if possible."""
    start = max(0, min(index - length // 2, count - length))
    return slice(start, min(start + length, count))
