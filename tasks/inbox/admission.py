"""Admit files from the inbox to the image set; refused files go to the quarantine."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path, PurePosixPath

from prefect import task
from prefect.cache_policies import NO_CACHE

from stillwatch.errors import LayoutError, StorageError
from stillwatch.files import bytes_md5, move_whole
from stillwatch.images.layout import (
    FEEDBACK,
    IGNORE_FILE,
    REGION_FILE,
    check_category_name,
    existing_path,
    list_category,
)
from stillwatch.images.mask_names import MASK_ENDING, image_of_mask
from stillwatch.settings import Settings
from stillwatch.tasks.data.workspace import Workspace, one_writer
from stillwatch.tasks.inbox import announcements
from stillwatch.tasks.inbox.arrivals import Arrival
from stillwatch.tasks.inbox.quarantine import refuse
from stillwatch.tasks.inbox.rules import (
    Refusal,
    check_image,
    check_mask,
    distinct_name,
    images_by_md5,
    plain_bytes,
)
from stillwatch.text import encodable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Admission:
    """The outcome for one file of the inbox."""

    name: str
    """``category/label/file`` of the inbox; bytes that are not UTF-8 are escaped."""
    category: str
    source: str
    """``collection`` or ``feedback``, as of the arrival."""
    admitted_as: str | None
    """POSIX path in the category's folder; None: not admitted."""
    reason: str | None
    """Why the file was refused, or could not be moved."""
    stays: bool = False
    """The file is still in the inbox, because it cannot be moved."""


def admit_arrivals(
    arrivals: Sequence[Arrival], workspace: Workspace, settings: Settings
) -> list[Admission]:
    """Move each file from the inbox to the image set or to the quarantine.

    The label alone decides where a file goes, no detector does: normals go to ``train``, anomalies
    to ``test``, masks to ``ground_truth``, and images whose verdict a person corrected to
    ``feedback``, which the split and the test leave out. A file is announced as pending, then
    written whole to its new place, then removed from the inbox.

    Refused are files that cannot be decoded or have an unsafe name, images that are too small or
    already in the category, masks without an image, masks of another size or without a marked
    pixel (together with their image), files that would leave some anomalies of a category with a
    mask and others without, and files without a label, such as a ``region.png``.

    A file that cannot be processed does not stop the others: it is refused, or stays in the inbox
    if it cannot be moved. Files that changed since the inbox was scanned stay for the next call.

    Args:
        arrivals: files that nobody writes to any more.
        settings: of all categories.

    Returns:
        The outcome of each arrival, except of those that changed since the scan.
    """
    admissions = []
    with one_writer(workspace):
        for category, group in groupby(sorted(arrivals), attrgetter("category")):
            files = sorted(group, key=_order)
            masks = {one.mask: one for one in files if one.is_mask and one.source == "collection"}
            own = settings.for_category(category)
            intake = CategoryIntake(workspace, category, own, masks)
            for arrival in files:
                admission = intake.admit(arrival)
                if admission is None:
                    logger.warning(
                        "%s: stays for the next ingest, because the file or its image changed "
                        "since the scan, or cannot be moved",
                        encodable(arrival.name),
                    )
                    continue
                if admission.stays:
                    logger.warning("%s: stays in the inbox: %s", admission.name, admission.reason)
                admissions.append(admission)
    return admissions


admit = task(name="admit", task_run_name="admit", cache_policy=NO_CACHE)(admit_arrivals)


class ChangedSinceScanError(Exception):
    """The arrival, or the image of a mask, changed since the inbox was scanned."""


class CannotMoveError(Exception):
    """The arrival cannot be moved; the message is for the user."""


@dataclass
class CategoryIntake:
    """Admits the files of one category."""

    workspace: Workspace
    category: str
    settings: Settings
    masks: Mapping[Path, Arrival]
    """The masks in the inbox, except those of corrected images."""
    known: dict[str, str] = field(default_factory=dict)
    """md5 -> path of the images that the category has."""
    images_of: dict[Path, PurePosixPath | None] = field(default_factory=dict)
    """Path that the inbox would have for an image's mask -> the admitted image in the category's
    folder; None: the image was refused."""
    unusable_masks: dict[Path, str] = field(default_factory=dict)
    """Masks that were refused together with their image -> the reason."""
    postponed_masks: set[Path] = field(default_factory=set)
    """Paths that the inbox would have for the masks of images that stay in the inbox."""
    asks_for_masks: bool = field(init=False)
    """Whether an anomaly must have a mask, as the category's other anomalies have."""

    def __post_init__(self) -> None:
        self.known.update(images_by_md5(self.folder))
        masks = self._masks_of()
        # Where the category has no anomaly yet, the first ones to arrive decide.
        self.asks_for_masks = any(masks.values()) if masks else bool(self.masks)

    @property
    def folder(self) -> Path:
        """Of the category, in the workspace."""
        return self.workspace.data / self.category

    def admit(self, arrival: Arrival) -> Admission | None:
        """Move a file to the image set or to the quarantine; None if it changed since the scan."""
        admission = partial(Admission, encodable(arrival.name), self.category, arrival.source)
        try:
            return admission(*self._admit_or_refuse(arrival))
        except ChangedSinceScanError:
            self.postponed_masks.add(arrival.mask)
            return None
        except CannotMoveError as error:
            self.postponed_masks.add(arrival.mask)
            return admission(None, encodable(str(error)), stays=True)

    def _admit_or_refuse(self, arrival: Arrival) -> tuple[str | None, str | None]:
        """Return the file's new path in the category's folder, or the reason of its refusal."""
        try:
            admit = self._admit_mask if arrival.is_mask else self._admit_image
            return admit(arrival), None
        except (StorageError, ChangedSinceScanError, CannotMoveError):
            raise
        except Exception as error:
            reason = encodable(_sentence(error))
            self._refuse(arrival, reason)
            return None, reason

    def _refuse(self, arrival: Arrival, reason: str) -> None:
        with _moving(arrival):
            try:
                refuse(arrival, reason, self.settings)
            except OSError as error:
                raise CannotMoveError(f"{reason}; it cannot be moved ({error})") from error

    def _move(self, arrival: Arrival, target: str) -> None:
        with _moving(arrival):
            # Before the move: a run that dies after the move would leave unannounced images.
            announcements.add(self.category, target, self.settings.state_dir)
            staging = self.workspace.root / ".dvc" / "tmp"
            move_whole(arrival.file, self.folder / target, staging=staging)

    def _admit_image(self, arrival: Arrival) -> str:
        self.images_of[arrival.mask] = None
        if not arrival.label:
            raise Refusal(self._why_not_without_label(arrival.file.name))
        data = self._checked_bytes(arrival)
        size = check_image(data, name=arrival.file.name, settings=self.settings)
        md5 = bytes_md5(data)
        if md5 in self.known:
            there = PurePosixPath(self.known[md5])
            if there in self._without_mask(arrival.label):
                self.images_of[arrival.mask] = there
            raise Refusal(f"is a byte-for-byte copy of {there}, which the category has already")
        folder = self._image_folder(arrival)
        self._check_mask_of(arrival, size)
        name = arrival.file.name
        if (self.folder / folder / name).exists():
            name = distinct_name(arrival.file, md5)
        self._move(arrival, f"{folder}/{name}")
        self.images_of[arrival.mask] = PurePosixPath(folder, name)
        self.known[md5] = f"{folder}/{name}"
        return self.known[md5]

    def _why_not_without_label(self, name: str) -> str:
        if name in (REGION_FILE, IGNORE_FILE):
            return (
                f"is a region of interest, which is not taken from the inbox: copy it to "
                f"{self.folder / name} and run 'stillwatch retrain'"
            )
        return "has no label: put it into good or <defect>"

    def _image_folder(self, arrival: Arrival) -> str:
        if arrival.source == "feedback":
            return self._folder(FEEDBACK, arrival.label)
        if arrival.label == FEEDBACK:
            raise Refusal(f"has no label: put it into {FEEDBACK}/good or {FEEDBACK}/<defect>")
        if arrival.label == "good":
            self._refuse_mask_of_normal(arrival)
            return self._folder("train", "good")
        if self.asks_for_masks and arrival.mask not in self.masks:
            raise Refusal(
                f"has no mask, as other anomalies of {self.category} have; put it into the inbox "
                f"again together with {arrival.mask.name}"
            )
        return self._folder("test", arrival.label)

    def _refuse_mask_of_normal(self, arrival: Arrival) -> None:
        image = image_of_mask(arrival.file.name)
        if image in {PurePosixPath(path).stem for path in self.known.values()}:
            raise Refusal(f"has the name of a mask of {image}, and a good part needs none")

    def _check_mask_of(self, arrival: Arrival, size: tuple[int, int]) -> None:
        """Refuse an image whose mask cannot be used: without its mask it would block training."""
        mask = self.masks.get(arrival.mask)
        if mask is None:
            return
        if not mask.is_untouched:
            raise ChangedSinceScanError
        try:
            self._check_mask(mask, size, arrival.file)
        except Refusal as refusal:
            self.unusable_masks[mask.mask] = str(refusal)
            raise Refusal(
                f"has a mask that cannot be used ({mask.file.name}: {refusal}); put both into the "
                "inbox again"
            ) from refusal

    def _check_mask(self, mask: Arrival, size: tuple[int, int], image: Path) -> None:
        self._checked_bytes(mask)
        check_mask(mask.file, image=image, size=size, settings=self.settings)

    def _admit_mask(self, arrival: Arrival) -> str:
        if arrival.mask in self.postponed_masks:
            raise ChangedSinceScanError
        if arrival.source == "feedback":
            raise Refusal("is a mask, and corrected anomalies have none")
        image = self._checked_image(arrival)
        if not self.asks_for_masks and self._left_without_mask:
            first, *others = self._left_without_mask
            more = f" and {len(others)} more" if others else ""
            raise Refusal(
                f"is a mask, and {first}{more} of {self.category} would have none: put it into the "
                "inbox again together with theirs, named after the images"
            )
        if self._masks_of().get(image.as_posix()):
            raise Refusal(f"is a second mask of {image}; put both masks into one file")
        folder = self._folder("ground_truth", arrival.label)
        target = f"{folder}/{image.stem}{MASK_ENDING}{arrival.file.suffix.lower()}"
        self._move(arrival, target)
        return target

    def _checked_image(self, mask: Arrival) -> PurePosixPath:
        """The image of a mask, after the mask was checked against the image."""
        if mask.mask in self.unusable_masks:
            raise Refusal(self.unusable_masks[mask.mask])
        image = (
            self.images_of[mask.mask]
            if mask.mask in self.images_of
            else self._image_without_mask(mask)
        )
        if image is None:
            raise Refusal(
                "is a mask, and the inbox does not have the image of that name, nor does "
                f"test/{mask.label} have such an image without a mask"
            )
        self._check_mask(mask, self._size(image), self.folder / image)
        return image

    def _size(self, image: PurePosixPath) -> tuple[int, int]:
        data = (self.folder / image).read_bytes()
        try:
            return check_image(data, name=image.name, settings=self.settings)
        except Refusal as refusal:
            raise Refusal(
                f"is a mask, and its image {image} cannot be used: {refusal}"
            ) from refusal

    @cached_property
    def _left_without_mask(self) -> list[PurePosixPath]:
        """The anomalies that would have no mask if all masks in the inbox were admitted."""
        covered = set()
        for mask in self.masks.values():
            with suppress(Refusal):
                covered.add(self._checked_image(mask))
        return [
            PurePosixPath(path)
            for path, mask in self._masks_of().items()
            if mask is None and PurePosixPath(path) not in covered
        ]

    def _image_without_mask(self, mask: Arrival) -> PurePosixPath | None:
        """The image of an earlier run that was killed before it admitted the mask."""
        stem = image_of_mask(mask.file.name) or mask.file.stem
        found = [
            there
            for there, md5 in self._without_mask(mask.label).items()
            if there.stem in (stem, distinct_name(Path(stem), md5))
        ]
        return found[0] if len(found) == 1 else None

    def _without_mask(self, label: str) -> dict[PurePosixPath, str]:
        """The anomalies with this label that have no mask: path -> md5."""
        masks, folder = self._masks_of(), PurePosixPath(self._folder("test", label))
        return {
            PurePosixPath(path): md5
            for md5, path in self.known.items()
            if PurePosixPath(path).parent == folder and masks.get(path, "") is None
        }

    def _masks_of(self) -> dict[str, str | None]:
        """The category's test anomalies with their masks; none where it cannot be read."""
        try:
            anomalies = list_category(self.folder).test_anomalies
        except LayoutError:
            return {}  # the checks after the admission say why
        return {image.path: image.mask for image in anomalies}

    def _checked_bytes(self, arrival: Arrival) -> bytes:
        try:
            check_category_name(arrival.category)
        except LayoutError as error:
            raise Refusal(str(error)) from error
        return plain_bytes(arrival.file, place=f"{arrival.label}/{arrival.file.name}")

    def _folder(self, section: str, label: str) -> str:
        return existing_path(self.folder, f"{section}/{label}")


@contextmanager
def _moving(arrival: Arrival) -> Iterator[None]:
    """Ensure that the file to be moved is the file that was checked."""
    if not arrival.is_untouched:
        raise ChangedSinceScanError
    try:
        yield
    except StorageError as error:
        # Permissions concern this file alone; a full disk concerns every file.
        if not isinstance(error.__cause__, PermissionError):
            raise
        raise CannotMoveError(str(error)) from error


def _sentence(error: Exception) -> str:
    if isinstance(error, Refusal):
        return str(error)
    return f"cannot be processed ({type(error).__name__}: {error})"


def _order(arrival: Arrival) -> tuple[bool, bool, Arrival]:
    # Masks after the images that they belong to. Corrected images before collected ones: of two
    # files with the same bytes, the corrected one must not reach calibration or test.
    return arrival.is_mask, arrival.source != "feedback", arrival
