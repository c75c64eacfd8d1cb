"""The store: the decoded images of a category as one memory-mapped array on disk."""

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stillwatch.errors import StorageError
from stillwatch.files import atomic_folder, storage_errors
from stillwatch.images.decode import resize_image
from stillwatch.images.layout import check_category_name

_VERSION = 1
"""Increased when decoding or resizing changes a pixel, so that older stores are not used."""
_PIXELS = "images.npy"
_PATHS = "paths.json"
_KEPT = 3
_UNUSED_SECONDS = 24 * 60 * 60
"""Longer than any training that reads a store."""


def store_folder(cache: Path, *, category: str, digest: str, size: int, white_level: int) -> Path:
    """The folder of a store, named by everything that its pixels depend on.

    Args:
        cache: folder of all stores.
        category: its name.
        digest: the category's digest (hexadecimal).
        size: side of the stored images in pixels.
        white_level: the manifest's.
    """
    check_category_name(category)
    return cache / category / f"{digest}-{size}-{white_level}-v{_VERSION}"


def mark_used(folder: Path) -> None:
    """Mark a store as used, and remove stores of the category that were not used for a day.

    The newest stores are kept at any age, so that an earlier version of the images need not be
    decoded again. The rest of a killed writer counts as a store.
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


class ImageStore:
    """A finished store, read-only: pages are read from disk as they are used."""

    def __init__(self, folder: Path, paths: tuple[str, ...], images: NDArray[np.uint8]) -> None:
        self.folder = folder
        self.paths = paths
        self.images = images
        """uint8 (N, S, S, 3), memory-mapped; row i is ``paths[i]``."""
        self._rows = {path: row for row, path in enumerate(paths)}

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a store that a ``StoreWriter`` has finished.

        Raises:
            StorageError: there is none, or it is damaged.
        """
        try:
            paths = json.loads((folder / _PATHS).read_text(encoding="utf-8"))
            images = np.load(folder / _PIXELS, mmap_mode="r", allow_pickle=False)
            if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(paths):
                raise ValueError(f"{len(paths)} paths for an array of shape {images.shape}")
        except (OSError, ValueError, TypeError, EOFError) as error:
            raise StorageError(
                f"{folder}: not a complete store of decoded images ({error}); delete the folder "
                "and run again, it is made anew."
            ) from error
        return cls(folder, tuple(paths), images)

    def rows(self, paths: Sequence[str]) -> list[int]:
        """Rows of ``images`` that hold these paths, in their order.

        Raises:
            StorageError: a path is not in the store.
        """
        missing = [path for path in paths if path not in self._rows]
        if missing:
            raise StorageError(
                f"{self.folder}: does not hold {missing[0]} ({len(missing)} images missing); "
                "delete the folder and run again, it is made anew."
            )
        return [self._rows[path] for path in paths]


class StoreWriter:
    """Fills a new store; use as a context manager and ``add`` each image once, from any thread.

    The whole file is allocated first, so that a full disk is met before any work. On a clean exit
    with every path added the store is put in its place; otherwise nothing is left of it (what is
    missing after a manifest are the images that its rows say cannot be decoded).

    Raises (from the context):
        StorageError: the folder cannot be written or the disk is full.
    """

    def __init__(self, folder: Path, paths: Sequence[str], size: int) -> None:
        self._folder = folder
        self._size = size
        self._rows = {path: row for row, path in enumerate(paths)}
        self._added = np.zeros(len(paths), bool)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_folder(self._folder))
            file = stack.enter_context((temporary / _PIXELS).open("wb"))
            shape = (len(self._rows), self._size, self._size, 3)
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            file.flush()
            self._file = file.fileno()
            self._start = file.tell()
            os.posix_fallocate(self._file, 0, self._start + int(np.prod(shape)))
            (temporary / _PATHS).write_text(json.dumps(list(self._rows)), encoding="utf-8")
            self._resources = stack.pop_all()
        return self

    def add(self, path: str, pixels: NDArray[np.uint8]) -> None:
        """Resize and write one image, uint8 (H, W, 3).

        Raises:
            KeyError: the store was not announced this path.
        """
        row = self._rows[path]
        image = np.ascontiguousarray(resize_image(pixels, self._size)).tobytes()
        # Not through a memory map: on a full disk that kills the process instead of raising.
        written = 0
        while written < len(image):
            written += os.pwrite(
                self._file, image[written:], self._start + row * len(image) + written
            )
        self._added[row] = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(_IncompleteError), self._resources:
            if error is not None:
                raise error
            if not self._added.all():
                raise _IncompleteError
            os.fsync(self._file)  # a power cut must not leave the name without the pixels


class _IncompleteError(Exception):
    """Makes the context of the folder discard the files."""
