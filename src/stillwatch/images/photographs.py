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
from stillwatch.images.layout import IMAGE_SUFFIXES
from stillwatch.threads import thread_count

MOST = 1000
"""Most photographs that are read: as many as fit into memory beside a training."""
_FEWEST = 3
"""One to validate on, and two to train on: each is the other's negative in a metric loss."""


def photograph_files(folder: Path) -> list[Path]:
    """The images in ``folder`` and below, at most ``MOST``, evenly spread over their order."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if len(files) < _FEWEST:
        raise LayoutError(
            f"training.photographs: {folder} holds {len(files)} images, and at least {_FEWEST} are "
            "needed. Name a folder of everyday photographs, or set it to null."
        )
    step = max(1.0, len(files) / MOST)
    return [files[int(index * step)] for index in range(min(len(files), MOST))]


def photographs_digest(folder: Path) -> str:
    """sha256 over the photographs of ``folder`` that are read."""
    digest = hashlib.sha256()
    for path in photograph_files(folder):
        digest.update(hashlib.sha256(read_bytes(path)).digest())
    return digest.hexdigest()


def read_photographs(folder: Path, side: int) -> NDArray[np.uint8]:
    """The middle squares of the photographs, resized: uint8 (N, side, side, 3)."""

    def read(path: Path) -> NDArray[np.uint8]:
        pixels = decode_image(read_bytes(path), name=str(path)).pixels
        return resize_image(_middle_square(pixels), side, side)

    with ThreadPoolExecutor(thread_count()) as pool:
        return np.stack(list(pool.map(read, photograph_files(folder))))


def _middle_square(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]
