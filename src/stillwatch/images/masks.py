"""Read ground-truth masks: which pixels of an image show a defect.

Every function that reads a file raises ``ImageError`` where the file cannot be used.
"""

from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stillwatch.errors import ImageError
from stillwatch.geometry import Shape
from stillwatch.images.decode import (
    MAX_MEGAPIXELS,
    decode_samples,
    orientation_of,
    read_bytes,
    read_shape,
    turned_upright,
)
from stillwatch.images.layout import mask_files

_LARGEST_LABEL = 31
_AVERAGED_COLUMNS = 256


@dataclass(frozen=True, eq=False)
class Mask:
    """A decoded mask."""

    marked: NDArray[np.bool_]
    """(H, W), true where the image is defective."""
    values: int | None
    """Number of different samples, where the middle of their range had to decide; else None."""


def decode_mask(data: bytes, *, name: str, max_megapixels: float = MAX_MEGAPIXELS) -> Mask:
    """Decode a mask file.

    The lowest value in the file is the background; the value of a colour is its largest channel.
    With two values, the higher one marks the defect. With more than two values, the highest of
    which is 31 or less, the values are kinds of defect: all pixels but the background are marked.
    Otherwise (soft borders, JPEG) pixels from the middle between the lowest and the highest value
    on are marked. A file with one value only marks all pixels, or none if the value is 0.
    """
    samples, _mode, _pages = decode_samples(data, name, max_megapixels)
    levels = samples if samples.ndim == 2 else samples.max(axis=2)
    lowest, highest = int(levels.min()), int(levels.max())
    counts = cv2.calcHist([np.ascontiguousarray(levels)], [0], None, [65536], [0, 65536])
    values = int(np.count_nonzero(counts))
    if lowest == highest:
        return Mask(levels > 0, None)
    if values == 2 or highest <= _LARGEST_LABEL:
        return Mask(levels > lowest, None)
    return Mask(levels >= (lowest + highest) / 2, values)


def load_mask(
    path: Path, *, image: Path | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> Mask:
    """Read the mask of an image.

    Args:
        path: of the mask, or of a folder whose files together are the mask.
        image: the image file. Where its EXIF orientation turns it, the mask may have been drawn on
            the upright or on the stored pixels, which the mask's shape decides. None: the mask is
            taken as it is.
        max_megapixels: a larger file is refused undecoded.

    Raises:
        ImageError: a file cannot be decoded, the files of a folder differ in size, or nobody can
            tell which pixels the mask was drawn on.
    """
    files = mask_files(path)
    masks = [_read(file, image, max_megapixels) for file in files]
    if len({mask.marked.shape for mask in masks}) != 1:
        raise ImageError(
            f"{path}: its {len(files)} masks are not of one size; save them at the image's size."
        )
    marked = reduce(np.logical_or, (mask.marked for mask in masks))
    return Mask(marked, max((mask.values for mask in masks if mask.values), default=None))


def read_mask(
    path: Path, *, image: Path | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> NDArray[np.bool_]:
    """The marked pixels of a mask, bool (H, W); see ``load_mask``."""
    return load_mask(path, image=image, max_megapixels=max_megapixels).marked


def doubt_about(mask: NDArray[np.bool_]) -> str | None:
    """Why a mask is probably inverted or not a mask, as a phrase; None if it may be right."""
    share = float(mask.mean())
    if share > 1 / 2:
        return f"marks {share:.0%} of the image"
    if mask[[0, -1]].all() and mask[:, [0, -1]].all():
        return "marks the whole border of the image"
    return None


def resize_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """Resize bool (H, W) to (height, width): true where at least half of a pixel's area is.

    An 8-connected region that would vanish keeps the one pixel that holds most of it, so that a
    small defect still counts in region metrics.
    """
    if mask.shape == (height, width):
        return mask
    rows_reduced = [
        # In parts: as floats, the mask of a large image would need gigabytes.
        _area_means(mask[:, left : left + _AVERAGED_COLUMNS].astype(np.float64), height)
        for left in range(0, mask.shape[1], _AVERAGED_COLUMNS)
    ]
    share = _area_means(np.hstack(rows_reduced).T, width).T
    resized: NDArray[np.bool_] = np.ascontiguousarray(share >= 0.5 - 1e-9)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    rows, columns = np.nonzero(mask)
    regions = labels[rows, columns]
    cells = ((2 * rows + 1) * height // (2 * mask.shape[0])) * width
    cells += (2 * columns + 1) * width // (2 * mask.shape[1])
    survives = np.zeros(count + 1, bool)
    survives[regions[resized.ravel()[cells]]] = True
    for region in range(1, count + 1):
        if not survives[region]:
            resized.ravel()[np.bincount(cells[regions == region]).argmax()] = True
    return resized


def smallest_defect(
    mask: NDArray[np.bool_], counted: NDArray[np.bool_] | None = None
) -> Shape | None:
    """Height and width of the smallest 8-connected region of a mask, by its bounding box.

    The smallest is the one with the shortest side, then with the shorter other side.

    Args:
        mask: (H, W), true where the image is defective.
        counted: (H, W), the region of interest; regions wholly outside are left out. None: none.

    Returns:
        None if no region is left.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    # The labels of a whole image of 100 megapixels would take 400 MB.
    marked = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(
        mask[marked].astype(np.uint8), connectivity=8
    )
    found = np.unique(labels if counted is None else labels[counted[marked]])
    sides = boxes[found[found > 0]][:, [cv2.CC_STAT_HEIGHT, cv2.CC_STAT_WIDTH]].tolist()
    smallest = min(sides, key=sorted, default=None)
    return None if smallest is None else (smallest[0], smallest[1])


def _area_means(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Means of (H, W) over ``size`` equal parts of its rows, fractions included: (size, W)."""
    height = values.shape[0]
    sums = np.vstack([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    edges = np.arange(size + 1) * height / size
    below = np.minimum(edges.astype(np.int64), height - 1)
    part = (edges - below)[:, None]
    at_edges = sums[below] * (1 - part) + sums[below + 1] * part
    means: NDArray[np.float64] = np.diff(at_edges, axis=0) * (size / height)
    return means


def _read(file: Path, image: Path | None, max_megapixels: float) -> Mask:
    mask = decode_mask(read_bytes(file), name=str(file), max_megapixels=max_megapixels)
    orientation = 1 if image is None else orientation_of(image, max_megapixels=max_megapixels)
    if image is None or orientation == 1:
        return mask
    if orientation_of(file, max_megapixels=max_megapixels) != 1:
        return mask  # decoding has turned it as its own orientation says
    turned = turned_upright(mask.marked.astype(np.uint8), orientation) > 0
    shape = read_shape(image, max_megapixels=max_megapixels)
    fitting = [marked for marked in (mask.marked, turned) if marked.shape == shape]
    if len(fitting) == 2 and not np.array_equal(fitting[0], fitting[1]):
        raise ImageError(
            f"{file}: nobody can tell whether it was drawn on the upright image or on the stored "
            f"pixels, which the EXIF orientation {orientation} of {image.name} turns; save the "
            "image upright without an EXIF orientation, at the size and place of its mask."
        )
    return Mask(fitting[0], mask.values) if fitting else mask
