"""From the inbox into the image set, or into the quarantine with the reason beside the file."""

import errno
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from stillwatch.errors import ImageError, LayoutError
from stillwatch.files import atomic_file, storage_errors
from stillwatch.images.decode import decode_image, decode_mask
from stillwatch.images.layout import (
    IMAGE_SUFFIXES,
    NORMAL_FOLDERS,
    check_category_name,
    unsafe_name,
)
from stillwatch.settings import Settings
from tasks.inbox import MASK_ENDING, Arrival
from tasks.workspace import Say, Workspace, one_writer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Admission:
    """What became of one file of the inbox."""

    name: str
    """``category/label/file``, as it lay in the inbox."""
    category: str
    admitted_as: str | None
    """POSIX path in the category's folder; None if it was refused."""
    reason: str | None
    """Why it was refused."""


@task(name="admit", task_run_name="admit", cache_policy=NO_CACHE)
def admit(arrivals: Sequence[Arrival], workspace: Workspace, settings: Settings) -> list[Admission]:
    """As ``admit_arrivals``, in a flow run."""
    return admit_arrivals(arrivals, workspace, settings, say=get_run_logger().warning)


def admit_arrivals(
    arrivals: Sequence[Arrival],
    workspace: Workspace,
    settings: Settings,
    *,
    say: Say = logger.warning,
) -> list[Admission]:
    """Move each file to where it belongs: a normal to train, an anomaly to test, a mask to its own.

    A file is in its new place, whole, before it leaves the inbox. The label alone decides where it
    goes: no detector is asked. Refused are files that cannot be decoded or have an unsafe name,
    images that are too small or that the category has already, masks that come without their image,
    and anomalies that come without a mask where the category's others have one.

    Args:
        arrivals: files that nobody writes to any more.
        workspace: holds the image set.
        settings: least side, largest image, and the state folder with the quarantine.

    Raises:
        StorageError: a folder cannot be written to, or the disk is full.
    """
    admissions = []
    with one_writer(workspace, say):
        for name, ours in _by_category(arrivals).items():
            masks = {one.file for one in ours if one.is_mask}
            desk = _Desk(workspace, name, settings, masks)
            # Masks last: what they belong to is among the images.
            for arrival in sorted(ours, key=lambda one: (one.is_mask, one)):
                admissions.append(desk.settle(arrival))
    return admissions


def quarantine(settings: Settings) -> Path:
    """The folder of refused files; it has the inbox's layout."""
    return settings.state_dir / "quarantine"


class _Refusal(Exception):  # noqa: N818
    """Why a file is not admitted, for a person."""


@dataclass
class _Desk:
    """Admits the files of one category."""

    workspace: Workspace
    category: str
    settings: Settings
    masks: Set[Path]
    """What came with the images."""
    known: dict[str, str] = field(default_factory=dict)
    """md5 -> path of the images that the category has."""
    masked: dict[Path, str] = field(default_factory=dict)
    """Where the mask of an image that was admitted would lie in the inbox -> the image's stem."""

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            for file in sorted((self.folder / part).glob("*/*")):
                if file.is_file():
                    self.known[_md5(file)] = file.relative_to(self.folder).as_posix()

    @property
    def folder(self) -> Path:
        return self.workspace.data / self.category

    def settle(self, arrival: Arrival) -> Admission:
        """Move a file into the image set or into the quarantine."""
        try:
            target = self._place_of_mask(arrival) if arrival.is_mask else self._place_of(arrival)
        except _Refusal as refusal:
            _refuse(arrival, str(refusal), quarantine(self.settings))
            return Admission(arrival.name, self.category, None, str(refusal))
        _move(arrival.file, self.folder / target, self.workspace.root / ".dvc" / "tmp")
        return Admission(arrival.name, self.category, target, None)

    def _place_of(self, arrival: Arrival) -> str:
        data = self._checked_bytes(arrival)
        if arrival.file.suffix.lower() not in IMAGE_SUFFIXES:
            raise _Refusal(f"does not end in {', '.join(sorted(IMAGE_SUFFIXES))}")
        limit = self.settings.images.max_megapixels
        image = _readable(lambda: decode_image(data, name=arrival.name, max_megapixels=limit))
        least = self.settings.checks.min_side
        if min(image.width, image.height) < least:
            raise _Refusal(
                f"is {image.width}×{image.height} pixels; checks.min_side asks for {least}"
            )
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if md5 in self.known:
            raise _Refusal(f"has the very bytes of {self.known[md5]}, which is there already")
        normal = arrival.label == "good"
        if not normal and self._asks_for_masks() and arrival.mask not in self.masks:
            raise _Refusal(
                f"has no mask, as other anomalies of {self.category} have; put it into the inbox "
                f"again together with {arrival.mask.name}"
            )
        folder = f"train/{self._normal_folder()}" if normal else f"test/{arrival.label}"
        name = arrival.file.name
        if (self.folder / folder / name).exists():
            name = f"{arrival.file.stem}-{md5[:8]}{arrival.file.suffix}"
        self.masked[arrival.mask] = Path(name).stem
        self.known[md5] = f"{folder}/{name}"
        return self.known[md5]

    def _place_of_mask(self, arrival: Arrival) -> str:
        data = self._checked_bytes(arrival)
        _readable(lambda: decode_mask(data, name=arrival.name))
        image = self.masked.get(arrival.file)
        if image is None:
            raise _Refusal("is a mask, and the image that it is named after did not come with it")
        return f"ground_truth/{arrival.label}/{image}{MASK_ENDING}.png"

    def _checked_bytes(self, arrival: Arrival) -> bytes:
        try:
            check_category_name(arrival.category)
        except LayoutError as error:
            raise _Refusal(str(error)) from error
        unsafe = unsafe_name(f"{arrival.label}/{arrival.file.name}")
        if unsafe:
            raise _Refusal(f"its name {unsafe}")
        if arrival.file.is_symlink() or not arrival.file.is_file():
            raise _Refusal("is not a plain file")
        try:
            return arrival.file.read_bytes()
        except OSError as error:
            raise _Refusal(f"cannot be read ({error.strerror})") from error

    def _asks_for_masks(self) -> bool:
        return any((self.folder / "ground_truth").glob("*/*"))

    def _normal_folder(self) -> str:
        here = (name for name in NORMAL_FOLDERS if (self.folder / "train" / name).is_dir())
        return next(here, "good")


def _by_category(arrivals: Sequence[Arrival]) -> dict[str, list[Arrival]]:
    grouped: dict[str, list[Arrival]] = {}
    for arrival in arrivals:
        grouped.setdefault(arrival.category, []).append(arrival)
    return grouped


T = TypeVar("T")


def _readable(decode: Callable[[], T]) -> T:
    try:
        return decode()
    except ImageError as error:
        # What is wrong, without the name that stands before it.
        raise _Refusal(str(error).partition(": ")[2]) from error


def _refuse(arrival: Arrival, reason: str, folder: Path) -> None:
    """Move a file into the quarantine, its reason first."""
    target = folder / arrival.category / arrival.label / arrival.file.name
    number = 1
    while target.exists():
        target = target.with_name(f"{arrival.file.stem}-{number}{arrival.file.suffix}")
        number += 1
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target.with_name(f"{target.name}.reason.txt")) as temporary:
            temporary.write_text(f"{arrival.name}: {reason}\n", encoding="utf-8")
        _move(arrival.file, target, folder)


def _move(source: Path, target: Path, staging: Path) -> None:
    """Put a whole copy, or the file itself, in its place; only then does it leave its own.

    Args:
        staging: an existing folder on the target's file system.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with tempfile.TemporaryDirectory(dir=staging, prefix="inbox-") as folder:
                copy = Path(folder) / "file"
                shutil.copy2(source, copy, follow_symlinks=False)
                copy.rename(target)
            source.unlink()


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
