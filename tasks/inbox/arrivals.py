"""The inbox: image files that somebody dropped, not yet versioned.

``<category>/<label>/*``, and ``<category>/feedback/<label>/*`` for those whose verdict was
corrected: the folders are the marks that go with an image into the image set.
"""

import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stillwatch.errors import StorageError
from stillwatch.images.layout import (
    FEEDBACK,
    LEFT_BY_FILE_MANAGERS,
    MASK_ENDING,
    NORMAL_FOLDERS,
    mask_names,
)


@dataclass(frozen=True, order=True)
class Arrival:
    """A file that lies still in the inbox."""

    category: str
    """Name of the folder; whether it may be a category's name is not checked yet."""
    label: str
    """``good`` for a normal, else the kind of defect: the folder's name."""
    file: Path
    source: Literal["collection", "feedback"]
    """feedback: a person corrected its verdict, so it is here because of its score."""
    stamp: tuple[int, int, int] = field(compare=False)
    """Its size, modification and change time when it was found."""

    @property
    def is_untouched(self) -> bool:
        """Whether it lies where it was found and nobody has written to it since."""
        try:
            return _stamp(self.file.lstat()) == self.stamp
        except OSError:
            return False

    @property
    def is_mask(self) -> bool:
        """Whether it marks the defect of the image that it is named after."""
        return self.label != "good" and self.file.stem.endswith(MASK_ENDING)

    @property
    def mask(self) -> Path:
        """Where the inbox has the mask of this image, if it has one."""
        return self.file.with_name(mask_names(self.file.stem)[0])

    @property
    def name(self) -> str:
        """``category/label/file`` or ``category/feedback/label/file``, for people."""
        return f"{self.category}/{self.folder}/{self.file.name}"

    @property
    def folder(self) -> str:
        """Where in its category's folder it lies, POSIX."""
        return self.label if self.source == "collection" else f"{FEEDBACK}/{self.label}"


def still_files(inbox: Path, settle_seconds: float) -> list[Arrival]:
    """The files that nobody has written to for a while, sorted; hidden ones are passed by.

    A file's change time counts, which the system sets whenever its bytes, size, name or
    modification time change, so that a copy that keeps the original's time is not taken half-way.
    On a network share it is the server's, so the age is counted by the server's clock, too.

    Args:
        inbox: a folder that may not exist.
        settle_seconds: how long a file must have been left alone.

    Raises:
        StorageError: the inbox cannot be read.
    """
    if not inbox.exists():
        return []
    latest = _now(inbox) - settle_seconds
    found = []
    try:
        for category in _folders(inbox):
            for label in _folders(category):
                arrivals = _arrivals(category, label, "collection", latest)
                if label.name == FEEDBACK:
                    arrivals = [one for one in arrivals if not one.file.is_dir()]
                    for corrected in _folders(label):
                        arrivals += _arrivals(category, corrected, "feedback", latest)
                found += arrivals
    except OSError as error:
        raise StorageError(
            f"{inbox}: the inbox cannot be read ({error.strerror}); check its permissions."
        ) from error
    return sorted(found)


def _arrivals(
    category: Path, label: Path, source: Literal["collection", "feedback"], latest: float
) -> list[Arrival]:
    name = "good" if label.name in NORMAL_FOLDERS else label.name
    found = []
    for file in _visible(label):
        with suppress(FileNotFoundError):  # taken away meanwhile
            stat = file.stat(follow_symlinks=False)
            if stat.st_ctime <= latest:
                found.append(Arrival(category.name, name, Path(file.path), source, _stamp(stat)))
    return found


def _now(inbox: Path) -> float:
    """By the clock that the change times in this folder are of."""
    try:
        with tempfile.TemporaryFile(dir=inbox) as file:
            return os.fstat(file.fileno()).st_ctime
    except OSError:  # only the folders in it may be written to
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
            if not entry.name.startswith(".") and entry.name.lower() not in LEFT_BY_FILE_MANAGERS
        ]
