"""Scan the inbox for new image files.

The layout is ``<category>/<label>/*``, and ``<category>/feedback/<label>/*`` for images whose
verdict a person corrected.
"""

import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from stillwatch.errors import StorageError
from stillwatch.images.layout import FEEDBACK, is_normal_folder, is_system_file
from stillwatch.images.mask_names import MASK_ENDING, folded, image_of_mask


@dataclass(frozen=True, order=True)
class Arrival:
    """A file in the inbox that nobody writes to any more."""

    category: str
    """Name of the folder; not checked yet."""
    label: str
    """``good`` for a normal, else the kind of defect: the folder's name; empty for a file that lies
    in the folder of the category itself."""
    file: Path
    source: Literal["collection", "feedback"]
    """feedback: the image was selected by its score, because a person corrected its verdict."""
    stamp: tuple[int, int, int] = field(compare=False)
    """Size, modification time and change time at the scan."""

    @property
    def is_untouched(self) -> bool:
        """Whether the file is unchanged since the scan."""
        try:
            return _stamp(self.file.lstat()) == self.stamp
        except OSError:
            return False

    @property
    def is_mask(self) -> bool:
        """Whether the file is the mask of an image."""
        return self.label not in ("", "good") and image_of_mask(self.file.name) is not None

    @property
    def mask(self) -> Path:
        """What stands for the mask of this image, or for this mask: the path of a PNG file."""
        stem = (image_of_mask(self.file.name) if self.is_mask else None) or self.file.stem
        return self.file.with_name(f"{stem}{MASK_ENDING}.png")

    @property
    def name(self) -> str:
        """``category/label/file``, ``category/feedback/label/file`` or ``category/file``."""
        return str(PurePosixPath(self.category, self.folder, self.file.name))

    @property
    def folder(self) -> str:
        """The file's folder, POSIX, relative to its category's folder."""
        return self.label if self.source == "collection" else f"{FEEDBACK}/{self.label}"


def still_files(inbox: Path, settle_seconds: float) -> list[Arrival]:
    """The visible files that did not change for a while, sorted.

    The age of a file is measured from its change time, not its modification time: a copy in
    progress may already have the modification time of the original. The clock is that of the
    inbox's file system, which on a network share is the server's.

    Args:
        inbox: a folder that may not exist.
        settle_seconds: a file must be unchanged for so long.

    Raises:
        StorageError: the inbox cannot be read.
    """
    if not inbox.exists():
        return []
    latest = _now(inbox) - settle_seconds
    found = []
    try:
        for category in _folders(inbox):
            found += _arrivals(category, category, "collection", latest)
            for label in _folders(category):
                found += _arrivals(category, label, "collection", latest)
                if folded(label.name) == FEEDBACK:
                    for corrected in _folders(label):
                        found += _arrivals(category, corrected, "feedback", latest)
    except OSError as error:
        raise StorageError(
            f"{inbox}: the inbox cannot be read ({error.strerror}); check its permissions."
        ) from error
    return sorted(found)


def _arrivals(
    category: Path, folder: Path, source: Literal["collection", "feedback"], latest: float
) -> list[Arrival]:
    label = "good" if is_normal_folder(folder.name) else folder.name
    if folder == category:
        label = ""
    elif source == "collection" and folded(label) == FEEDBACK:
        label = FEEDBACK
    holds_folders = source == "collection" and label in ("", FEEDBACK)
    found = []
    for file in _visible(folder):
        if holds_folders and file.is_dir():
            continue
        with suppress(FileNotFoundError):  # removed meanwhile
            stat = file.stat(follow_symlinks=False)
            if stat.st_ctime <= latest:
                found.append(Arrival(category.name, label, Path(file.path), source, _stamp(stat)))
    return found


def _now(inbox: Path) -> float:
    """The current time by the clock of the inbox's file system, in seconds since 1970."""
    try:
        with tempfile.TemporaryFile(dir=inbox) as file:
            return os.fstat(file.fileno()).st_ctime
    except OSError:  # the inbox itself is read-only
        return time.time()


def _stamp(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _folders(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in _visible(folder) if entry.is_dir()]


def _visible(folder: Path) -> "list[os.DirEntry[str]]":
    if not folder.exists():
        return []
    with os.scandir(folder) as entries:
        return [
            entry
            for entry in entries
            if not entry.name.startswith(".") and not is_system_file(entry.name)
        ]
