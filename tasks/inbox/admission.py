"""From the inbox into the image set, or into the quarantine with the reason beside the file."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from stillwatch.errors import LayoutError, StorageError
from stillwatch.files import bytes_md5, move_whole
from stillwatch.images.layout import (
    FEEDBACK,
    IMAGE_SUFFIXES,
    MASK_ENDING,
    NORMAL_FOLDERS,
    check_category_name,
    mask_names,
)
from stillwatch.settings import Settings
from stillwatch.tasks.data.workspace import Say, Workspace, one_writer
from stillwatch.tasks.inbox.announcements import note
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

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Admission:
    """What became of one file of the inbox."""

    name: str
    """``category/label/file``, as it lay in the inbox; what is not UTF-8 in it is escaped."""
    category: str
    source: str
    """As the arrival's."""
    admitted_as: str | None
    """POSIX path in the category's folder; None if it was refused."""
    reason: str | None
    """Why it was refused or stays."""
    stays: bool = False
    """In the inbox, since it cannot be moved."""


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
    masks without an image that they could belong to, masks that do not fit or mark nothing (with
    the image that comes with them), and whatever would leave some anomalies of a category with a
    mask and others without.

    One arrival that cannot be dealt with stops no other: it is refused, or if it cannot be moved at
    all, it stays. So does what was written to since it was found, which the next call looks at.

    Args:
        arrivals: files that nobody writes to any more.
        workspace: holds the image set.
        settings: least side, largest image, and the state folder with the quarantine.
        say: told what stays in the inbox, and that another process has to be waited for.

    Returns:
        What became of each arrival, but for those that were written to.

    Raises:
        StorageError: a folder cannot be written to, or the disk is full.
    """
    admissions = []
    with one_writer(workspace, say):
        for name, ours in _by_category(arrivals).items():
            masks = {one.file: one for one in ours if one.is_mask and one.source == "collection"}
            desk = _Desk(workspace, name, settings, masks)
            for arrival in sorted(ours, key=_turn):
                settled = desk.settle(arrival)
                if settled is None:
                    say(
                        f"{_printable(arrival.name)}: is left for the next ingest, since it or its "
                        "image was written to or cannot be moved"
                    )
                    continue
                if settled.stays:
                    say(f"{settled.name}: stays in the inbox: {settled.reason}")
                admissions.append(settled)
    return admissions


class _WrittenTo(Exception):  # noqa: N818
    """The arrival, or the image that it is the mask of, is no longer what it was."""


class _Stuck(Exception):  # noqa: N818
    """Why an arrival cannot be moved, for a person."""


@dataclass
class _Desk:
    """Admits the files of one category."""

    workspace: Workspace
    category: str
    settings: Settings
    masks: Mapping[Path, Arrival]
    """What came with the images that nobody corrected."""
    known: dict[str, str] = field(default_factory=dict)
    """md5 -> path of the images that the category has."""
    came: dict[Path, PurePosixPath | None] = field(default_factory=dict)
    """Where the mask of an image that came would lie in the inbox -> the image in the category's
    folder; None for one that was refused."""
    unfit: dict[Path, str] = field(default_factory=dict)
    """Masks that came with an image and cannot be used -> why."""
    stayed: set[Path] = field(default_factory=set)
    """Where the masks of images that stay in the inbox would lie."""
    asks_for_masks: bool = field(init=False)
    """Whether an anomaly must have a mask, as the category's others have."""

    def __post_init__(self) -> None:
        self.known.update(images_by_md5(self.folder))
        anomalies = self._anomalies()
        # The first anomalies of a category decide it for those that come with them.
        self.asks_for_masks = (
            any(self._has_mask(image) for image in anomalies) if anomalies else bool(self.masks)
        )

    @property
    def folder(self) -> Path:
        return self.workspace.data / self.category

    def settle(self, arrival: Arrival) -> Admission | None:
        """Move a file into the image set or into the quarantine; None if it was written to."""
        admission = partial(Admission, _printable(arrival.name), self.category, arrival.source)
        try:
            try:
                target = self._admit_mask(arrival) if arrival.is_mask else self._admit(arrival)
            except (StorageError, _WrittenTo, _Stuck):
                raise
            except Exception as error:
                reason = _printable(_sentence(error))
                self._refuse(arrival, reason)
                return admission(None, reason)
            return admission(target, None)
        except _WrittenTo:
            self.stayed.add(arrival.mask)
            return None
        except _Stuck as stuck:
            self.stayed.add(arrival.mask)
            return admission(None, _printable(str(stuck)), stays=True)

    def _refuse(self, arrival: Arrival, reason: str) -> None:
        with _moving(arrival):
            try:
                refuse(arrival, reason, self.settings)
            except OSError as error:
                raise _Stuck(f"{reason}; it cannot be moved ({error})") from error

    def _move(self, arrival: Arrival, target: str) -> None:
        with _moving(arrival):
            # Before it: a run that dies after it may not leave images of which nobody is told.
            note(self.category, target, self.settings.state_dir)
            staging = self.workspace.root / ".dvc" / "tmp"
            move_whole(arrival.file, self.folder / target, staging=staging)

    def _admit(self, arrival: Arrival) -> str:
        self.came[arrival.mask] = None
        data = self._checked_bytes(arrival)
        size = check_image(data, name=arrival.file.name, settings=self.settings)
        md5 = bytes_md5(data)
        if md5 in self.known:
            there = PurePosixPath(self.known[md5])
            if there in self._without_mask(arrival.label):
                self.came[arrival.mask] = there
            raise Refusal(f"has the very bytes of {there}, which is there already")
        folder = self._image_folder(arrival)
        self._check_mask_of(arrival, size)
        name = arrival.file.name
        if (self.folder / folder / name).exists():
            name = distinct_name(arrival.file, md5)
        self._move(arrival, f"{folder}/{name}")
        self.came[arrival.mask] = PurePosixPath(folder, name)
        self.known[md5] = f"{folder}/{name}"
        return self.known[md5]

    def _image_folder(self, arrival: Arrival) -> str:
        if arrival.source == "feedback":
            return arrival.folder
        if arrival.label == FEEDBACK:
            raise Refusal(f"has no label: put it into {FEEDBACK}/good or {FEEDBACK}/<defect>")
        if arrival.label == "good":
            return f"train/{self._normal_folder()}"
        if self.asks_for_masks and arrival.mask not in self.masks:
            raise Refusal(
                f"has no mask, as other anomalies of {self.category} have; put it into the inbox "
                f"again together with {arrival.mask.name}"
            )
        return f"test/{arrival.label}"

    def _check_mask_of(self, arrival: Arrival, size: tuple[int, int]) -> None:
        """Refuse an image along with its mask: without it, it would keep all others from training.

        Raises:
            Refusal: the mask that came with it cannot be used.
        """
        mask = self.masks.get(arrival.mask)
        if mask is None:
            return
        if not mask.is_untouched:
            raise _WrittenTo
        try:
            self._check_mask(mask, size)
        except Refusal as refusal:
            self.unfit[mask.file] = str(refusal)
            raise Refusal(
                f"has a mask that cannot be used ({mask.file.name}: {refusal}); put both into the "
                "inbox again"
            ) from refusal

    def _check_mask(self, mask: Arrival, size: tuple[int, int]) -> None:
        data = self._checked_bytes(mask)
        check_mask(data, name=mask.file.name, size=size, settings=self.settings)

    def _admit_mask(self, arrival: Arrival) -> str:
        if arrival.file in self.stayed:
            raise _WrittenTo
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
        target = f"ground_truth/{arrival.label}/{mask_names(image.stem)[0]}"
        self._move(arrival, target)
        return target

    def _checked_image(self, mask: Arrival) -> PurePosixPath:
        """The image of a mask, which was found to fit it."""
        if mask.file in self.unfit:
            raise Refusal(self.unfit[mask.file])
        image = self.came[mask.file] if mask.file in self.came else self._waiting(mask)
        if image is None:
            raise Refusal(
                "is a mask, and the image that it is named after did not come with it, nor does it "
                f"lie in test/{mask.label} without one"
            )
        self._check_mask(mask, self._size(image))
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
        """The anomalies that had none if all masks that came were admitted."""
        covered = set()
        for mask in self.masks.values():
            with suppress(Refusal):
                covered.add(self._checked_image(mask))
        return [one for one in self._anomalies() if one not in covered and not self._has_mask(one)]

    def _waiting(self, mask: Arrival) -> PurePosixPath | None:
        """The image that an earlier run admitted, and was killed before the mask."""
        stem = mask.file.stem.removesuffix(MASK_ENDING)
        found = [
            there
            for there, md5 in self._without_mask(mask.label).items()
            if there.stem in (stem, distinct_name(Path(stem), md5))
        ]
        return found[0] if len(found) == 1 else None

    def _without_mask(self, label: str) -> dict[PurePosixPath, str]:
        """The anomalies of this kind that have none: path -> md5."""
        return {
            path: md5
            for md5, path in ((md5, PurePosixPath(path)) for md5, path in self.known.items())
            if path.parent == PurePosixPath("test", label) and not self._has_mask(path)
        }

    def _anomalies(self) -> list[PurePosixPath]:
        """The category's, that are tested with."""
        return [
            PurePosixPath("test", file.parent.name, file.name)
            for file in sorted((self.folder / "test").glob("*/[!.]*"))
            if file.parent.name not in NORMAL_FOLDERS and file.suffix.lower() in IMAGE_SUFFIXES
        ]

    def _has_mask(self, image: PurePosixPath) -> bool:
        masks = self.folder / "ground_truth" / image.parent.name
        return any((masks / name).exists() for name in mask_names(image.stem))

    def _checked_bytes(self, arrival: Arrival) -> bytes:
        try:
            check_category_name(arrival.category)
        except LayoutError as error:
            raise Refusal(str(error)) from error
        return plain_bytes(arrival.file, place=f"{arrival.label}/{arrival.file.name}")

    def _normal_folder(self) -> str:
        here = (name for name in NORMAL_FOLDERS if (self.folder / "train" / name).is_dir())
        return next(here, "good")


@contextmanager
def _moving(arrival: Arrival) -> Iterator[None]:
    """Move what was looked at, and nothing that has taken its place since."""
    if not arrival.is_untouched:
        raise _WrittenTo
    try:
        yield
    except StorageError as error:
        # Its folder may be somebody else's; a full disk is no matter of this file.
        if not isinstance(error.__cause__, PermissionError):
            raise
        raise _Stuck(str(error)) from error


def _sentence(error: Exception) -> str:
    if isinstance(error, Refusal):
        return str(error)
    return f"cannot be dealt with ({type(error).__name__}: {error})"


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _turn(arrival: Arrival) -> tuple[bool, bool, Arrival]:
    # Masks last: what they belong to is among the images. What was corrected first: if the same
    # bytes were collected, too, they must not come into calibration or test that way.
    return arrival.is_mask, arrival.source != "feedback", arrival


def _by_category(arrivals: Sequence[Arrival]) -> dict[str, list[Arrival]]:
    grouped: dict[str, list[Arrival]] = {}
    for arrival in arrivals:
        grouped.setdefault(arrival.category, []).append(arrival)
    return grouped
