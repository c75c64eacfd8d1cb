"""The MVTec layout: find the images and masks of each category in a folder tree.

::

    <root>/<category>/train/good/*.png                       normals to learn from
    <root>/<category>/test/good/*.png                        normals to test with
    <root>/<category>/test/<defect>/*.png                    anomalies
    <root>/<category>/ground_truth/<defect>/*_mask.png       their masks, same stem
    <root>/<category>/feedback/good/*.png                    corrected normals, only to train on
    <root>/<category>/feedback/<defect>/*.png                corrected anomalies, no masks
    <root>/<category>/region.png                             white where defects count, or
    <root>/<category>/ignore.png                             white where they do not

As described by Bergmann et al., "The MVTec Anomaly Detection Dataset" (IJCV 2021); HALCON's
folder name ``ok`` is taken for ``good``, and a mask may also have its image's plain stem.

The folder ``feedback`` and the two files of a region of interest (``stillwatch.images.region``) are
our own. The folder holds images whose verdicts a person corrected, that is,
images selected by their scores: in calibration or test they would bias thresholds and figures.
"""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from stillwatch.errors import LayoutError
from stillwatch.text import CATEGORY_NAME

NORMAL_FOLDERS = ("good", "ok")
FEEDBACK = "feedback"
REGION_FILE = "region.png"
IGNORE_FILE = "ignore.png"
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
LEFT_BY_FILE_MANAGERS = {"thumbs.db", "desktop.ini"}
"""Files to ignore, in lower case."""
MASK_ENDING = "_mask"
_REFUSED_ELSEWHERE = frozenset('\\:*?"<>|')


@dataclass(frozen=True, order=True)
class ImageFile:
    """One file in an image folder; the file is not decoded yet."""

    path: str
    """POSIX, relative to the category's folder, as on disk: ``train/good/000.png``."""
    split: Literal["train", "test", "feedback"]
    """train for all images to learn from, ``feedback/good`` among them; feedback for corrected
    anomalies."""
    defect_type: str
    """The folder's name; ``good`` for normals, also when the folder is called ``ok``."""
    mask: str | None
    """POSIX, relative to the category's folder; None where no file is found."""


@dataclass(frozen=True)
class Category:
    """The images of one category."""

    name: str
    folder: Path
    images: tuple[ImageFile, ...]
    """Sorted by path."""
    region_files: tuple[str, ...] = ()
    """``region.png``, ``ignore.png`` or both, as far as they are in the folder; both are refused
    when they are read."""

    @property
    def train_normals(self) -> tuple[ImageFile, ...]:
        """The images of ``train/good`` and ``feedback/good``."""
        return tuple(image for image in self.images if image.split == "train")

    @property
    def test_normals(self) -> tuple[ImageFile, ...]:
        """The images of ``test/good``."""
        return tuple(
            image for image in self.images if image.split == "test" and image.defect_type == "good"
        )

    @property
    def test_anomalies(self) -> tuple[ImageFile, ...]:
        """The images of every other folder in ``test``."""
        return tuple(
            image for image in self.images if image.split == "test" and image.defect_type != "good"
        )


def check_category_name(name: str) -> None:
    """Raise if a name cannot be used for a folder, an experiment and a model.

    Raises:
        LayoutError: the name is not made of a-z, 0-9, ``_`` and ``-`` only.
    """
    if not CATEGORY_NAME.fullmatch(name):
        raise LayoutError(
            f"category {name!r}: a category's name may only have the characters a-z, 0-9, '_' "
            "and '-'; rename its folder."
        )


def check_defect_type(name: str) -> None:
    """Raise if a name cannot be the folder of a defect.

    Raises:
        LayoutError: it is empty, hidden, more than one folder, or unsafe.
    """
    reason = unsafe_name(name)
    if not name or PurePosixPath(name).name != name:
        reason = "is not the name of one folder"
    elif name.startswith("."):
        reason = "begins with a dot, which hides it"
    if reason:
        raise LayoutError(f"defect type {name!r}: {reason}; use letters, digits, '_' and '-'.")


def is_feedback(path: str) -> bool:
    """Whether a path is in the folder of corrected images.

    Args:
        path: POSIX, relative to the category's folder.
    """
    return path.startswith(f"{FEEDBACK}/")


def category_folders(root: Path) -> dict[str, Path]:
    """Find the categories of an image set: name -> folder, sorted; hidden folders are passed by.

    Raises:
        LayoutError: no folder, none in it has a ``train`` folder, a name that is not allowed, a
            symbolic link that leaves ``root``.
    """
    folders = {
        entry.name: root / entry.name
        for entry in _entries(root, root)
        if entry.is_dir() and (root / entry.name / "train").is_dir()
    }
    if not folders:
        hint = (
            f"it is itself a category, so name its parent folder {root.absolute().parent}"
            if (root / "train").is_dir()
            else "it needs one folder per category, with the normals in <category>/train/good"
        )
        raise LayoutError(f"{root}: no category found; {hint}.")
    for name in folders:
        check_category_name(name)
    return folders


def scan_image_set(root: Path) -> dict[str, Category]:
    """Scan every category of an image set, sorted by name.

    One unusable category fails the whole scan; to go on without it, scan the folders of
    ``category_folders`` one by one.
    """
    return {name: scan_category(folder) for name, folder in category_folders(root).items()}


def scan_category(folder: Path) -> Category:
    """List one category's images, masks and region; the image set's root is the folder's parent.

    Every visible file in an image folder is listed, whatever its suffix, so that a file that is
    not an image is reported.

    Raises:
        LayoutError: no ``train/good``, no image in it, folders that would not be read, a name that
            is not allowed, a symbolic link that leaves the image set.
    """
    folder = folder.absolute()
    check_category_name(folder.name)
    root = folder.parent
    images = sorted(
        [
            *_train_images(folder, root),
            *_test_images(folder, root),
            *_feedback_images(folder, root),
        ],
        key=lambda image: image.path,
    )
    if not any(
        image.split == "train" and PurePosixPath(image.path).suffix.lower() in IMAGE_SUFFIXES
        for image in images
    ):
        raise LayoutError(
            f"{folder / 'train'}: no images of good parts; put PNG, JPEG, BMP or TIFF files into "
            f"{folder / 'train' / 'good'}."
        )
    return Category(folder.name, folder, tuple(images), _region_files(folder, root))


def unsafe_name(path: str) -> str | None:
    """Describe what makes a path unsafe for shells, tables or other systems; None if it is safe."""
    for part in PurePosixPath(path).parts:
        if any(unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp") for character in part):
            return "has a control or invisible character"
        if any(unicodedata.category(character) == "Cs" for character in part):
            return "is not valid UTF-8"
        if part.startswith("-"):
            return "begins with a dash, which programs take for an option"
        if part != part.strip() or part.endswith("."):
            return "begins or ends with a space, or ends with a dot"
        refused = sorted(_REFUSED_ELSEWHERE.intersection(part))
        if refused:
            return f"has the character {refused[0]}, which other systems refuse"
    return None


def _train_images(folder: Path, root: Path) -> Iterator[ImageFile]:
    train = folder / "train"
    for entry in _entries(train, root):
        if entry.is_dir() and entry.name not in NORMAL_FOLDERS:
            raise LayoutError(
                f"{train / entry.name}: only good parts are trained on; move the images to "
                f"{folder / 'test' / entry.name}, or to {train / 'good'} if they are good."
            )
    for name in NORMAL_FOLDERS:
        for file in _files(train / name, root):
            yield ImageFile(f"train/{name}/{file}", "train", "good", None)


def _test_images(folder: Path, root: Path) -> Iterator[ImageFile]:
    for entry in _entries(folder / "test", root):
        if not entry.is_dir():
            continue
        defect_type = "good" if entry.name in NORMAL_FOLDERS else entry.name
        masks = set(_files(folder / "ground_truth" / entry.name, root))
        for file in _files(folder / "test" / entry.name, root):
            mask = _mask_of(PurePosixPath(file).stem, masks)
            yield ImageFile(
                f"test/{entry.name}/{file}",
                "test",
                defect_type,
                mask and f"ground_truth/{entry.name}/{mask}",
            )


def _feedback_images(folder: Path, root: Path) -> Iterator[ImageFile]:
    for entry in _entries(folder / FEEDBACK, root):
        if not entry.is_dir():
            continue
        for file in _files(folder / FEEDBACK / entry.name, root):
            path = f"{FEEDBACK}/{entry.name}/{file}"
            if entry.name in NORMAL_FOLDERS:
                yield ImageFile(path, "train", "good", None)
            else:
                yield ImageFile(path, "feedback", entry.name, None)


def _region_files(folder: Path, root: Path) -> tuple[str, ...]:
    found = tuple(name for name in (REGION_FILE, IGNORE_FILE) if os.path.lexists(folder / name))
    for name in found:
        _check_inside(folder / name, root)
    return found


def mask_names(stem: str) -> tuple[str, str]:
    """Possible file names of the mask of an image with this stem, the usual name first."""
    return f"{stem}{MASK_ENDING}.png", f"{stem}.png"


def _mask_of(stem: str, masks: set[str]) -> str | None:
    return next((name for name in mask_names(stem) if name in masks), None)


def _files(folder: Path, root: Path) -> list[str]:
    """Names of the visible files in an image folder; none if it does not exist."""
    names = []
    for entry in _entries(folder, root):
        if entry.is_dir():
            raise LayoutError(
                f"{folder / entry.name}: folders inside an image folder are not read; move its "
                f"images up to {folder}."
            )
        if not entry.is_file():
            raise LayoutError(f"{folder / entry.name}: not a regular file; remove it.")
        if entry.name.lower() not in LEFT_BY_FILE_MANAGERS:
            names.append(entry.name)
    return names


def _entries(folder: Path, root: Path) -> list["os.DirEntry[str]"]:
    """Visible entries, sorted by name, whose links stay inside ``root``; none without a folder."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise LayoutError(
            f"{folder}: cannot be read ({error.strerror}); check its permissions."
        ) from error
    visible = [entry for entry in entries if not entry.name.startswith(".")]
    for path in (folder, *(Path(entry.path) for entry in visible if entry.is_symlink())):
        _check_inside(path, root)
    return visible


def _check_inside(path: Path, root: Path) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop, before Python 3.13
        raise LayoutError(
            f"{path}: a symbolic link to nothing; remove it, or put the file in its place."
        ) from error
    if not target.is_relative_to(root.resolve()):
        raise LayoutError(
            f"{path}: leaves the image set by a symbolic link (to {target}); put the files "
            "themselves in its place."
        )
