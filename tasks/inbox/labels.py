"""Labels that people give to inspected images: marked, into the inbox and into the score log."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from stillwatch.errors import ImageError, LayoutError
from stillwatch.files import atomic_file, bytes_md5, file_md5
from stillwatch.images.layout import (
    FEEDBACK,
    MASK_ENDING,
    NORMAL_FOLDERS,
    category_folders,
    check_defect_type,
)
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
"""Verdicts that a label can agree with -> whether it is ``good`` then."""


@dataclass(frozen=True)
class LabelledFile:
    """An image that a person labelled and that is in the inbox now."""

    file: Path
    """As it was named; it stays where it is."""
    waits_as: Path
    """Its copy in the inbox."""
    label: str
    given: GivenVerdict | None
    """What was said of it last; None: the score log does not know it."""

    @property
    def remark(self) -> str:
        """What the label changes, for people."""
        if self.given is None:
            return "the score log does not know it"
        if _AGREES.get(self.given.verdict) == (self.label == "good"):
            return f"nothing to correct: it was {self.given}, but it is taken all the same"
        return f"it was {self.given}"


@dataclass(frozen=True)
class LabelCount:
    """How many images that were given this verdict have this label now."""

    given: GivenVerdict
    label: str
    images: int


def label_images(
    files: Sequence[Path], category: str, label: str, *, who: str, settings: Settings
) -> list[LabelledFile]:
    """Copy images into the inbox with the label of a person, all of them or none.

    They are marked as feedback: chosen by their scores, they are never calibrated on, nor part of
    the test. Whether the label contradicts the verdict makes no difference to that.

    Args:
        files: image files that a detector has inspected.
        category: a category of the image set.
        label: ``good``, or the defect type.
        who: says so.
        settings: name inbox, workspace and score log.

    Raises:
        LayoutError: there is no such category, or no defect type can have this name.
        ImageError: a file is no usable image, or is in the image set or the inbox already.
        StorageError: the inbox or the score log cannot be written.
        WorkspaceError: there is no image set.
    """
    data = open_workspace(settings).data
    folders = category_folders(data)
    if category not in folders:
        raise LayoutError(f"{data}: {unknown_name('category', category, list(folders))}.")
    label = "good" if label in NORMAL_FOLDERS else label
    if label != "good":
        check_defect_type(label)
    known = dict(_waiting(settings, category)) | images_by_md5(folders[category])
    images: dict[str, Path] = {}
    for file in files:
        try:
            md5 = _checked_md5(file, label, known, settings)
        except Refusal as refusal:
            raise ImageError(
                f"{file}: {refusal}. Mend that or leave the file out: nothing was put into the "
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
    """How often people gave which label to images with which verdict; the last label counts.

    Raises:
        LayoutError: no category can have this name.
        StorageError: the score log cannot be read.
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
        raise Refusal("begins with a dot, so the inbox would not see it")
    if label != "good" and file.stem.endswith(MASK_ENDING):
        raise Refusal(f"ends in {MASK_ENDING}, so the inbox would take it for a mask")
    data = plain_bytes(file.resolve(), place=f"{label}/{file.name}")
    check_image(data, name=file.name, settings=settings)
    md5 = bytes_md5(data)
    if md5 in known:
        raise Refusal(f"has the very bytes of {known[md5]}")
    return md5


def _waiting(settings: Settings, category: str) -> Iterator[tuple[str, str]]:
    """md5 and name of what lies in the category's inbox."""
    for arrival in still_files(settings.inbox.path, settle_seconds=0):
        if arrival.category == category and arrival.file.is_file():
            yield file_md5(arrival.file), f"{arrival.name}, which waits in the inbox"


def _free_name(folder: Path, file: Path, md5: str) -> Path:
    target = folder / file.name
    return target.with_name(distinct_name(file, md5)) if target.exists() else target
