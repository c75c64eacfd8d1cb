"""Take a person's labels of inspected images into the inbox and the score log."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from stillwatch.errors import ImageError, LayoutError
from stillwatch.files import atomic_file, bytes_md5, file_md5
from stillwatch.images.layout import (
    FEEDBACK,
    category_folders,
    check_defect_type,
    is_normal_folder,
)
from stillwatch.images.mask_names import image_of_mask
from stillwatch.inference.score_log import GivenVerdict, LabelledImage, open_score_log
from stillwatch.settings import Settings
from stillwatch.tasks.data.workspace import open_workspace
from stillwatch.tasks.inbox.arrivals import still_files
from stillwatch.tasks.inbox.rules import (
    Refusal,
    check_image,
    distinct_name,
    images_by_md5,
    plain_bytes,
)
from stillwatch.text import unknown_name

_AGREES = {"pass": True, "reject": False}
"""Verdict -> whether a label that agrees with the verdict is ``good``."""


@dataclass(frozen=True)
class LabelledFile:
    """A labelled image that was copied to the inbox."""

    file: Path
    """The original, which stays where it is."""
    copy: Path
    """The copy in the inbox."""
    label: str
    given: GivenVerdict | None
    """The image's latest verdict; None: the score log does not have the image."""

    @property
    def remark(self) -> str:
        """What the label changes, as a phrase for the user."""
        if self.given is None:
            return "the score log does not have this image"
        if _AGREES.get(self.given.verdict) == (self.label == "good"):
            return f"the label agrees with the verdict: {self.given}"
        return f"the label corrects the verdict: {self.given}"


@dataclass(frozen=True)
class LabelCount:
    """How many images with this verdict have this label now."""

    given: GivenVerdict
    label: str
    images: int


def label_images(
    files: Sequence[Path], category: str, label: str, *, who: str, settings: Settings
) -> list[LabelledFile]:
    """Copy images to the inbox as feedback with a person's label, all of them or none.

    Feedback is never used for calibration or test, because the images were selected by their
    scores. That holds as well where the label agrees with the verdict.

    Args:
        files: image files that a detector has inspected.
        label: ``good``, or the defect type.

    Raises:
        LayoutError: there is no such category, or the label is not allowed as a defect type.
        ImageError: a file is no usable image, or is already in the image set or the inbox.
        WorkspaceError: there is no image set.
    """
    data = open_workspace(settings).data
    folders = category_folders(data)
    if category not in folders:
        raise LayoutError(f"{data}: {unknown_name('category', category, list(folders))}.")
    label = "good" if is_normal_folder(label) else label
    if label != "good":
        check_defect_type(label)
    own = settings.for_category(category)
    known = dict(_in_inbox(settings, category)) | images_by_md5(folders[category])
    images: dict[str, Path] = {}
    for file in files:
        try:
            md5 = _checked_md5(file, label, known, own)
        except Refusal as refusal:
            raise ImageError(
                f"{file}: {refusal}. Fix this or leave the file out; nothing was copied to the "
                "inbox."
            ) from refusal
        images[md5] = file
        known[md5] = str(file)
    with ExitStack() as undo, open_score_log(settings) as log:
        given = log.verdicts_of(category, images)
        done = []
        for md5, file in images.items():
            target = _free_name(settings.inbox.path / category / FEEDBACK / label, file, md5)
            with atomic_file(target) as temporary:
                shutil.copyfile(file, temporary)
            undo.callback(target.unlink, missing_ok=True)
            done.append(LabelledFile(file, target, label, given.get(md5)))
        log.append_labels(
            category,
            [
                LabelledImage(given.get(md5), file.name, md5, label, who)
                for md5, file in images.items()
            ],
        )
        undo.pop_all()
    return done


def count_labels(settings: Settings, category: str) -> list[LabelCount]:
    """Count the images per verdict and label; of several labels of an image the last one counts.

    Raises:
        LayoutError: the name is not allowed for a category.
    """
    with open_score_log(settings) as log:
        labels = log.read_labels(category)
    last = {one.md5: one for one in labels}.values()
    counts = Counter((one.given, one.label) for one in last if one.given is not None)
    return [LabelCount(given, label, images) for (given, label), images in counts.items()]


def _checked_md5(file: Path, label: str, known: dict[str, str], settings: Settings) -> str:
    if not file.exists():
        raise Refusal("no such file")
    if file.name.startswith("."):
        raise Refusal("begins with a dot, and the inbox ignores such files")
    if label != "good" and image_of_mask(file.name) is not None:
        raise Refusal("has the name of a mask, and the inbox takes such files for masks")
    data = plain_bytes(file.resolve(), place=f"{label}/{file.name}")
    check_image(data, name=file.name, settings=settings)
    md5 = bytes_md5(data)
    if md5 in known:
        raise Refusal(f"is a byte-for-byte copy of {known[md5]}")
    return md5


def _in_inbox(settings: Settings, category: str) -> Iterator[tuple[str, str]]:
    """md5 and description of each file in the category's inbox."""
    for arrival in still_files(settings.inbox.path, settle_seconds=0):
        if arrival.category == category and arrival.file.is_file():
            with suppress(FileNotFoundError):  # an ingest has just moved it
                yield file_md5(arrival.file), f"{arrival.name}, which is in the inbox"


def _free_name(folder: Path, file: Path, md5: str) -> Path:
    target = folder / file.name
    return target.with_name(distinct_name(file, md5)) if target.exists() else target
