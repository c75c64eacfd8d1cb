"""The store: the decoded and scaled images of a category as one memory-mapped file on disk."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from stillwatch.errors import StorageError
from stillwatch.files import atomic_folder, storage_errors
from stillwatch.geometry import Geometry, Shape
from stillwatch.images.decode import resize_image
from stillwatch.images.layout import check_category_name
from stillwatch.sections import Section
from stillwatch.settings import ImageSettings

_VERSION = 2
"""Increased when decoding or resizing changes a pixel, so that older stores are not used."""
_PIXELS = "images.bin"
"""The pixels of all images, uint8 (h, w, 3) each, one after the other."""
_INDEX = "index.json"
_KEPT = 3
_UNUSED_SECONDS = 24 * 60 * 60
"""Longer than any training that reads a store."""


def store_folder(
    cache: Path, *, category: str, digest: str, images: ImageSettings, white_level: int
) -> Path:
    """The folder of a store, named by everything that its pixels depend on.

    Args:
        cache: folder of all stores.
        category: its name.
        digest: of the category's images (hexadecimal).
        images: scale, size and overlap.
        white_level: the manifest's.
    """
    check_category_name(category)
    scale = images.scale if images.scale == "fit" else f"{images.scale:g}-{images.overlap}"
    return cache / category / f"{digest}-{scale}-{images.size}-{white_level}-v{_VERSION}"


def mark_used(folder: Path) -> None:
    """Mark a store as used, and remove stores of the category that were not used for a day.

    The newest stores are kept at any age, so that an earlier version of the images need not be
    decoded again. What a killed writer left is removed like a store.
    """
    with storage_errors(folder):
        os.utime(folder)
        used = {}
        for store in folder.parent.iterdir():
            with suppress(FileNotFoundError):  # another process has just renamed it
                used[store] = store.stat().st_mtime
    newest_first = sorted(used, key=lambda store: used[store], reverse=True)
    for store in newest_first[_KEPT:]:
        if used[store] < used[folder] - _UNUSED_SECONDS:
            shutil.rmtree(store, ignore_errors=True)


class _Index(Section):
    """The content of ``index.json``."""

    geometry: Geometry
    shapes: dict[str, Shape]
    """Path of each image -> height and width as stored, in the order of the pixels."""


class ImageStore:
    """A finished store, read-only: pages are read from disk as they are used."""

    def __init__(self, folder: Path, index: _Index, pixels: NDArray[np.uint8]) -> None:
        self.folder = folder
        self.geometry = index.geometry
        self.paths = tuple(index.shapes)
        ends = np.cumsum([_bytes(shape) for shape in index.shapes.values()])
        parts = np.split(pixels, ends[:-1])
        self.images: tuple[NDArray[np.uint8], ...] = tuple(
            part.reshape(*shape, 3)
            for part, shape in zip(parts, index.shapes.values(), strict=True)
        )
        """uint8 (h, w, 3) each, memory-mapped; image i is ``paths[i]``."""
        self._rows = {path: row for row, path in enumerate(self.paths)}

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a store that ``store_writer`` has finished.

        Raises:
            StorageError: there is none, or it is damaged.
        """
        try:
            values = (folder / _INDEX).read_text(encoding="utf-8")
            index = _Index.model_validate_json(values)
            pixels = np.memmap(folder / _PIXELS, np.uint8, "r")
            expected = sum(map(_bytes, index.shapes.values()))
            if pixels.size != expected:
                raise ValueError(f"{pixels.size} bytes of pixels, and {expected} are listed")
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise StorageError(
                f"{folder}: not a complete store of decoded images ({reason}); delete the folder "
                "and run again, it is made anew."
            ) from error
        return cls(folder, index, pixels)

    def part(self, paths: Sequence[str]) -> list[NDArray[np.uint8]]:
        """The images of these paths, in their order.

        Raises:
            StorageError: a path is not in the store.
        """
        missing = [path for path in paths if path not in self._rows]
        if missing:
            raise StorageError(
                f"{self.folder}: does not hold {missing[0]} ({len(missing)} images missing); "
                "delete the folder and run again, it is made anew."
            )
        return [self.images[self._rows[path]] for path in paths]


@contextmanager
def store_writer(
    folder: Path, shapes: Mapping[str, Shape], geometry: Geometry
) -> Iterator["StoreWriter"]:
    """Fill a new store in the block: ``add`` each image once, from any thread.

    The whole file is allocated first, so that a full disk is met before any work. On a clean exit
    with every path added the store is put in its place; otherwise nothing is left of it (what is
    missing after a manifest are the images that its rows say cannot be decoded).

    Args:
        folder: of the store.
        shapes: path of each image -> height and width of its file, at least one.
        geometry: how the images are scaled.

    Raises:
        StorageError: the folder cannot be written or the disk is full.
    """
    scaled = {path: geometry.scaled_shape(*shape) for path, shape in shapes.items()}
    index = _Index(geometry=geometry, shapes=scaled)
    with (
        suppress(_IncompleteError),
        atomic_folder(folder) as temporary,
        (temporary / _PIXELS).open("wb") as file,
    ):
        os.posix_fallocate(file.fileno(), 0, sum(map(_bytes, scaled.values())))
        (temporary / _INDEX).write_text(index.model_dump_json(), encoding="utf-8")
        writer = StoreWriter(file.fileno(), scaled)
        yield writer
        if writer.missing:
            raise _IncompleteError
        os.fsync(file)  # a power cut must not leave the name without the pixels


class StoreWriter:
    """Scales images and writes them to their places in the file of a new store."""

    def __init__(self, file: int, shapes: Mapping[str, Shape]) -> None:
        self._file = file
        self._shapes = shapes
        starts = np.cumsum([0, *map(_bytes, shapes.values())]).tolist()
        self._starts = dict(zip(shapes, starts, strict=False))
        self.missing = set(shapes)
        """Paths that were not added yet."""

    def add(self, path: str, pixels: NDArray[np.uint8]) -> None:
        """Scale and write one image, uint8 (H, W, 3).

        Raises:
            KeyError: the store was not announced this path.
        """
        image = np.ascontiguousarray(resize_image(pixels, *self._shapes[path])).reshape(-1)
        # Not through a memory map: on a full disk that kills the process instead of raising.
        written = 0
        while written < image.size:
            written += os.pwrite(self._file, image[written:].data, self._starts[path] + written)
        self.missing.discard(path)


def on_disk(image: NDArray[np.uint8], file: IO[bytes]) -> NDArray[np.uint8]:
    """Append an image to an open file, and return it memory-mapped as the images of a store are."""
    offset = file.seek(0, os.SEEK_END)
    file.write(np.ascontiguousarray(image).data)
    file.flush()
    return np.memmap(file, np.uint8, "r", offset, image.shape)


class _IncompleteError(Exception):
    """Makes the context of the folder discard the files."""


def _bytes(shape: Shape) -> int:
    return shape[0] * shape[1] * 3
