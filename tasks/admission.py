"""From the inbox into the image set, or into the quarantine with the reason beside the file."""

import errno
import logging
import shutil
import tempfile
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from stillwatch.errors import LayoutError
from stillwatch.files import atomic_file, storage_errors
from stillwatch.images.decode import decode_mask
from stillwatch.images.layout import FEEDBACK, NORMAL_FOLDERS, check_category_name
from stillwatch.settings import Settings
from tasks.admissible import (
    Refusal,
    bytes_md5,
    check_image,
    images_by_md5,
    plain_bytes,
    readable,
)
from tasks.inbox import MASK_ENDING, Arrival
from tasks.unannounced import note
from tasks.workspace import Say, Workspace, one_writer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Admission:
    """What became of one file of the inbox."""

    name: str
    """``category/label/file``, as it lay in the inbox."""
    category: str
    source: str
    """As the arrival's."""
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

    What was corrected goes to ``feedback``, which tells the split and the test to leave it out.
    A file is in its new place, whole, before it leaves the inbox, and noted as unannounced before
    that. The label alone decides where it goes: no detector is asked. Refused are files that cannot
    be decoded or have an unsafe name, images that are too small or that the category has already,
    masks that come without their image, and anomalies that come without a mask where the category's
    others have one.

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
            for arrival in sorted(ours, key=_turn):
                admissions.append(desk.settle(arrival))
    return admissions


def quarantine(settings: Settings) -> Path:
    """The folder of refused files; it has the inbox's layout."""
    return settings.state_dir / "quarantine"


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
        self.known.update(images_by_md5(self.folder))

    @property
    def folder(self) -> Path:
        return self.workspace.data / self.category

    def settle(self, arrival: Arrival) -> Admission:
        """Move a file into the image set or into the quarantine."""
        try:
            target = self._place_of_mask(arrival) if arrival.is_mask else self._place_of(arrival)
        except Refusal as refusal:
            _refuse(arrival, str(refusal), quarantine(self.settings))
            return Admission(arrival.name, self.category, arrival.source, None, str(refusal))
        # Before the move: a run that dies after it may not leave images of which nobody is told.
        note(self.category, target, self.settings.state_dir)
        _move(arrival.file, self.folder / target, self.workspace.root / ".dvc" / "tmp")
        return Admission(arrival.name, self.category, arrival.source, target, None)

    def _place_of(self, arrival: Arrival) -> str:
        data = self._checked_bytes(arrival)
        check_image(data, name=arrival.file.name, settings=self.settings)
        md5 = bytes_md5(data)
        if md5 in self.known:
            raise Refusal(f"has the very bytes of {self.known[md5]}, which is there already")
        folder = self._image_folder(arrival)
        name = arrival.file.name
        if (self.folder / folder / name).exists():
            name = f"{arrival.file.stem}-{md5[:8]}{arrival.file.suffix}"
        self.masked[arrival.mask] = Path(name).stem
        self.known[md5] = f"{folder}/{name}"
        return self.known[md5]

    def _image_folder(self, arrival: Arrival) -> str:
        if arrival.source == "feedback":
            return arrival.folder
        if arrival.label == FEEDBACK:
            raise Refusal(f"has no label: put it into {FEEDBACK}/good or {FEEDBACK}/<defect>")
        if arrival.label == "good":
            return f"train/{self._normal_folder()}"
        if self._asks_for_masks() and arrival.mask not in self.masks:
            raise Refusal(
                f"has no mask, as other anomalies of {self.category} have; put it into the inbox "
                f"again together with {arrival.mask.name}"
            )
        return f"test/{arrival.label}"

    def _place_of_mask(self, arrival: Arrival) -> str:
        if arrival.source == "feedback":
            raise Refusal("is a mask, and corrected anomalies have none")
        data = self._checked_bytes(arrival)
        readable(lambda: decode_mask(data, name=arrival.name))
        image = self.masked.get(arrival.file)
        if image is None:
            raise Refusal("is a mask, and the image that it is named after did not come with it")
        return f"ground_truth/{arrival.label}/{image}{MASK_ENDING}.png"

    def _checked_bytes(self, arrival: Arrival) -> bytes:
        try:
            check_category_name(arrival.category)
        except LayoutError as error:
            raise Refusal(str(error)) from error
        return plain_bytes(arrival.file, place=f"{arrival.label}/{arrival.file.name}")

    def _asks_for_masks(self) -> bool:
        return any((self.folder / "ground_truth").glob("*/*"))

    def _normal_folder(self) -> str:
        here = (name for name in NORMAL_FOLDERS if (self.folder / "train" / name).is_dir())
        return next(here, "good")


def _turn(arrival: Arrival) -> tuple[bool, bool, Arrival]:
    # Masks last: what they belong to is among the images. What was corrected first: if the same
    # bytes were collected, too, they must not come into calibration or test that way.
    return arrival.is_mask, arrival.source != "feedback", arrival


def _by_category(arrivals: Sequence[Arrival]) -> dict[str, list[Arrival]]:
    grouped: dict[str, list[Arrival]] = {}
    for arrival in arrivals:
        grouped.setdefault(arrival.category, []).append(arrival)
    return grouped


def _refuse(arrival: Arrival, reason: str, folder: Path) -> None:
    """Move a file into the quarantine, its reason first."""
    target = folder / arrival.name
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
