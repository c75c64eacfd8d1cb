"""The region of interest of a category: the pixels of its images in which defects count.

A category may have one of two files, drawn over its images and of their size: ``region.png``, white
where defects count, or ``ignore.png``, white where they do not. They are read as masks are
(``masks.decode_mask``).
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillwatch.errors import ImageError
from stillwatch.files import atomic_file
from stillwatch.images.layout import IGNORE_FILE, REGION_FILE
from stillwatch.images.masks import read_mask, resize_mask

_WHITE = 254
"""Even, so that half of it is whole."""


@dataclass(frozen=True, eq=False)
class Region:
    """A region of interest; at least one pixel counts."""

    counted: NDArray[np.bool_]
    """(H, W) at the images' own size, true where defects count."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of shape and pixels, hexadecimal: equal regions have equal digests."""
        shape = "×".join(map(str, self.counted.shape))
        return hashlib.sha256(shape.encode() + self.counted.tobytes()).hexdigest()

    @property
    def share(self) -> float:
        """Share of the pixels that count, in (0, 1]."""
        return float(self.counted.mean())

    def resized(
        self, height: int, width: int, extent: tuple[float, float] = (1.0, 1.0)
    ) -> NDArray[np.bool_]:
        """The region at another size: true where at least half of a pixel's area counts.

        Where no pixel has half, each connected part keeps one pixel.

        Args:
            height: of the result.
            width: of the result.
            extent: height and width of what the result covers, relative to the image, at least 1;
                beyond the image its edge is repeated.
        """
        counted = self._enlarged(extent)
        if counted.shape == (height, width):
            return counted
        # Bytes: as floats, the region of a 100-megapixel image would need a gigabyte.
        white = counted.view(np.uint8) * np.uint8(_WHITE)
        resized = cv2.resize(white, (width, height), interpolation=cv2.INTER_AREA) >= _WHITE // 2
        return resized if resized.any() else resize_mask(counted, height, width)

    def _enlarged(self, extent: tuple[float, float]) -> NDArray[np.bool_]:
        beyond = [
            round(side * (reach - 1))
            for side, reach in zip(self.counted.shape, extent, strict=True)
        ]
        if not any(beyond):
            return self.counted
        return np.pad(self.counted, [(0, pixels) for pixels in beyond], mode="edge")

    def require_size(self, height: int, width: int, *, name: str) -> None:
        """Refuse an image of another size than the region.

        Raises:
            ImageError: the sizes differ; the message has the image's ``name``.
        """
        if self.counted.shape != (height, width):
            of_region = "{1}×{0}".format(*self.counted.shape)
            raise ImageError(
                f"{name}: is {width}×{height} pixels, and the region of interest is for images of "
                f"{of_region}. Take images of that size, or draw the region anew at theirs."
            )

    def save(self, path: Path) -> None:
        """Write a PNG of one bit per pixel, white where defects count, atomically.

        Raises:
            StorageError: the folder cannot be written to or the disk is full.
        """
        with atomic_file(path) as temporary:
            Image.fromarray(self.counted).save(temporary, format="PNG")

    @classmethod
    def load(cls, path: Path, *, max_megapixels: float = math.inf) -> Self:
        """Read what ``save`` has written, a ``region.png`` or an ``ignore.png``.

        Raises:
            ImageError: the file cannot be decoded, or no pixel counts.
        """
        marked = read_mask(path, max_megapixels=max_megapixels)
        ignored = path.name == IGNORE_FILE
        counted, colour = (~marked, "black") if ignored else (marked, "white")
        if not counted.any():
            raise ImageError(
                f"{path}: no pixel is {colour}, so that no defect would count. Draw {colour} where "
                "defects count, or delete the file."
            )
        return cls(np.ascontiguousarray(counted))


def read_region(folder: Path, files: Sequence[str], *, max_megapixels: float) -> Region | None:
    """Read the region of interest of a category; None if it has none.

    Args:
        folder: of the category.
        files: ``Category.region_files``.
        max_megapixels: a larger file is refused undecoded.

    Raises:
        ImageError: there are two files, the file cannot be decoded, or no pixel counts.
    """
    if not files:
        return None
    if len(files) > 1:
        raise ImageError(
            f"{folder}: has both {REGION_FILE} and {IGNORE_FILE}; keep the one that says where "
            "defects count, and delete the other."
        )
    return Region.load(folder / files[0], max_megapixels=max_megapixels)
