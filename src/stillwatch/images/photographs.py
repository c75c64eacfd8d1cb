"""Read a folder of everyday photographs, on which teachers of patches are trained.

Every function raises ``LayoutError`` without a folder or with too few images in it, and
``ImageError`` for a file that cannot be read.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillwatch.errors import LayoutError
from stillwatch.images.decode import decode_image, read_bytes, resize_image
from stillwatch.images.layout import images_below
from stillwatch.machine.threads import thread_count

MOST = 1000
"""Most photographs that are read."""
_MOST_BYTES = 800_000_000
"""Of all photographs together, which are in memory beside a training."""
_FEWEST = 3
"""One to validate on, and two to train on: each is the other's negative in a metric loss."""


def photograph_files(folder: Path, most: int = MOST) -> list[Path]:
    """The images in ``folder`` and below, at most ``most``, evenly spread over their order."""
    files = images_below(folder)
    if len(files) < _FEWEST:
        raise LayoutError(
            f"training.photographs: {folder} holds {len(files)} images, and at least {_FEWEST} are "
            "needed. Name a folder of everyday photographs, or set it to null."
        )
    step = max(1.0, len(files) / most)
    return [files[int(index * step)] for index in range(min(len(files), most))]


def photographs_digest(folder: Path) -> str:
    """sha256 over the photographs of ``folder``, at most ``MOST``."""
    digest = hashlib.sha256()
    for path in photograph_files(folder):
        digest.update(hashlib.sha256(read_bytes(path)).digest())
    return digest.hexdigest()


def read_photographs(folder: Path, side: int) -> NDArray[np.uint8]:
    """The middle squares of at most ``most_of_side`` photographs: uint8 (N, side, side, 3)."""
    files = photograph_files(folder, most_of_side(side))
    photographs = np.empty((len(files), side, side, 3), np.uint8)

    def read(number: int) -> None:
        path = files[number]
        pixels = decode_image(read_bytes(path), name=str(path)).pixels
        photographs[number] = resize_image(_middle_square(pixels), side, side)

    with ThreadPoolExecutor(thread_count()) as pool:
        list(pool.map(read, range(len(files))))
    return photographs


def most_of_side(side: int) -> int:
    """How many squares of this side are read: as many as have 800 megabytes, at least 3."""
    return max(_FEWEST, min(MOST, _MOST_BYTES // (3 * side * side)))


def _middle_square(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]
