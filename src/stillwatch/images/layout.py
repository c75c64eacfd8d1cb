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

As described by Bergmann et al., "The MVTec Anomaly Detection Dataset" (IJCV 2021). Capitals do not
matter, HALCON's folder name ``ok`` is taken for ``good``, images may lie in sub-folders, and masks
may have other names and places (``stillwatch.images.mask_names``). ``Category`` names every image
file that is not read: nothing is left out silently.

The folder ``feedback`` and the two files of a region of interest (``stillwatch.images.region``) are
our own. The folder holds images whose verdicts a person corrected, that is,
images selected by their scores: in calibration or test they would bias thresholds and figures.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from stillwatch.errors import LayoutError
from stillwatch.images.mask_names import folded, pair_masks, separate_masks
from stillwatch.text import CATEGORY_NAME, encodable, is_text

FEEDBACK = "feedback"
REGION_FILE = "region.png"
IGNORE_FILE = "ignore.png"
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
_MASKS = "ground_truth"
_SECTIONS = ("train", "test", FEEDBACK, _MASKS)
_SYSTEM_FILES = re.compile(
    r"thumbs\.db|ehthumbs.*\.db|desktop\.ini|icon\r|__macosx|@eadir|@recycle|#recycle|#snapshot"
    r"|\$recycle\.bin|system volume information|lost\+found",
    re.IGNORECASE,
)
_LABELLING_FILES = re.compile(r".*\.(json|txt|xml|csv)", re.IGNORECASE)
_DVC_CACHE = re.compile(r".*/[0-9a-f]{2}/[0-9a-f]{30}")
_NO_GOOD_PARTS = {"ng", "nok", "bad", "defect", "defects", "defective", "anomaly", "anomalies"}
_REFUSED_ELSEWHERE = frozenset('\\*?"<>|')


@dataclass(frozen=True, order=True)
class ImageFile:
    """One file in an image folder; the file is not decoded yet."""

    path: str
    """POSIX, relative to the category's folder, as on disk: ``train/good/000.png``."""
    split: Literal["train", "test", "feedback"]
    """train for all images to learn from, ``feedback/good`` among them; feedback for corrected
    anomalies."""
    defect_type: str
    """The folder's name; ``good`` for normals, also when the folder is called ``OK``."""
    mask: str | None
    """A file, or a folder whose files together are the mask; POSIX, relative to the category's
    folder. None where none is found."""


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
    stray_masks: tuple[str, ...] = ()
    """Masks that fit no image, or more than one."""
    unread_images: tuple[str, ...] = ()
    """Image files in a folder that is not read."""
    litter: tuple[str, ...] = ()
    """Files and folders of other programs among the images, which are left out."""

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
        allowed = re.sub("[^a-z0-9_-]+", "-", name.lower()).strip("-") or "part-1"
        raise LayoutError(
            f"category {name!r}: a category's name may only have the characters a-z, 0-9, '_' "
            f"and '-'. Name it {allowed!r}, for example."
        )


def check_defect_type(name: str) -> None:
    """Raise if a name cannot be the folder of a defect.

    Raises:
        LayoutError: it is empty, hidden, more than one folder, or unsafe.
    """
    reason = unsafe_name(name) or refused_by_windows(name)
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
    return section_of(path) == FEEDBACK


def section_of(path: str) -> str:
    """The top folder of a path, without capitals, such as ``train``; empty for a file beside it.

    Args:
        path: POSIX, relative to the category's folder.
    """
    section, slash, _ = folded(path).partition("/")
    return section if slash else ""


def is_normal_folder(name: str) -> bool:
    """Whether a folder of this name holds images of good parts."""
    return folded(name) in ("good", "ok")


def is_system_file(name: str) -> bool:
    """Whether file managers or network storage leave a file or folder of this name anywhere."""
    return _SYSTEM_FILES.fullmatch(name) is not None


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is of the system or of a labelling tool."""
    return is_system_file(name) or _LABELLING_FILES.fullmatch(name) is not None


def existing_name(folder: Path, name: str) -> str:
    """The folder in ``folder`` that is read as ``name``, else ``name``: ``OK`` for ``good``."""
    return next((one.name for one in _folders(folder) if _label(one.name) == _label(name)), name)


def existing_path(category: Path, path: str) -> str:
    """``path`` with section and label as their folders are called in the category's folder.

    Args:
        category: its folder, which may not exist.
        path: POSIX, relative to it: ``train/good/000.png``, or ``train/good``.
    """
    section, *below = PurePosixPath(path).parts
    section = existing_name(category, section)
    label = [existing_name(category / section, part) for part in below[:1]]
    return str(PurePosixPath(section, *label, *below[1:]))


def category_folders(root: Path) -> dict[str, Path]:
    """Find the categories of an image set: name -> folder, sorted; hidden folders are passed by.

    Neither the names nor the contents are checked: ``scan_category`` does that, so that an unusable
    category stops no other.

    Raises:
        LayoutError: no folder, or none in it has a ``train`` folder.
    """
    folders = {folder.name: folder for folder in _folders(root) if _has_train(folder)}
    if not folders:
        hint = (
            f"it is itself a category, so name its parent folder {root.absolute().parent}"
            if _has_train(root)
            else "it needs one folder per category, with the normals in <category>/train/good"
        )
        raise LayoutError(f"{root}: no category found; {hint}.")
    return folders


def images_below(folder: Path) -> list[Path]:
    """The visible files in a folder and below that are named as images are, sorted."""
    return sorted(
        file
        for file in folder.rglob("*")
        if _has_image_suffix(file.name)
        and file.is_file()
        and not any(
            part.startswith(".") or is_system_file(part) for part in file.relative_to(folder).parts
        )
    )


def scan_category(folder: Path) -> Category:
    """List one category's images, masks and region; the image set's root is the folder's parent.

    Every visible file in an image folder is listed, whatever its suffix, so that a file that is
    not an image is reported.

    Raises:
        LayoutError: there is no image of a good part, or as ``list_category``.
    """
    category = list_category(folder)
    if not any(map(_has_image_suffix, (image.path for image in category.train_normals))):
        train = category.folder / "train"
        raise LayoutError(
            f"{train}: no images of good parts; put PNG, JPEG, BMP or TIFF files into "
            f"{train / 'good'}."
        )
    return category


def list_category(folder: Path) -> Category:
    """List the files of a category, which may have no image yet.

    Raises:
        LayoutError: an image would be taken for a good or a defective part against the name of its
            folder, a name is not allowed, a symbolic link leaves the image set, an entry is no
            file.
    """
    folder = folder.absolute()
    check_category_name(folder.name)
    found = sorted(visible_files(folder, folder.parent))
    litter = {path: part for path in found if (part := _litter(path)) is not None}
    regions = [name for name in (REGION_FILE, IGNORE_FILE) if name in found]
    others = {*litter, *regions}
    groups, unread = _grouped(path for path in found if path not in others)
    _check_labels(folder, groups)
    images: list[ImageFile] = []
    stray_masks: list[str] = []
    for (section, label), paths in groups.items():
        if section == _MASKS:
            stray_masks += [] if ("test", label) in groups else paths
            continue
        shown, masks = separate_masks(paths)
        if section == "test":
            masks += groups.get((_MASKS, label), [])
        mask_of, unmatched = pair_masks(shown, masks)
        images += [_image_file(section, path, mask_of.get(path)) for path in shown]
        stray_masks += unmatched
    return Category(
        name=folder.name,
        folder=folder,
        images=tuple(sorted(images, key=lambda image: image.path)),
        region_files=tuple(regions),
        stray_masks=tuple(sorted(stray_masks)),
        unread_images=tuple(unread),
        litter=tuple(sorted({part for part in litter.values() if "/" in part})),
    )


def mask_files(path: Path) -> list[Path]:
    """The files of a mask: itself, or the visible files of a folder."""
    if not path.is_dir():
        return [path]
    return sorted(
        file for file in path.iterdir() if not (file.name.startswith(".") or is_litter(file.name))
    )


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


def refused_by_windows(path: str) -> str | None:
    """Describe what makes a path impossible on Windows, though Linux cameras write it; else None.

    The colon of a time stamp is no danger elsewhere, unlike what ``unsafe_name`` finds.
    """
    return "has a colon, which Windows refuses" if ":" in path else None


def _grouped(paths: Iterable[str]) -> tuple[dict[tuple[str, str], list[str]], list[str]]:
    """The files of each section and label, both folded; and the images that are in none."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    unread = []
    for path in paths:
        section, *below = PurePosixPath(path).parts
        section = folded(section)
        if section in _SECTIONS and len(below) > 1:
            groups[section, _label(below[0])].append(path)
        elif section == _MASKS:
            groups[section, ""].append(path)
        elif _has_image_suffix(path):
            unread.append(path)
    return dict(groups), unread


def _check_labels(folder: Path, groups: dict[tuple[str, str], list[str]]) -> None:
    """Refuse images whose folders say both that the part is good and that it is not."""
    defects = {label for section, label in groups if section == "test"} - {"good"} | _NO_GOOD_PARTS
    for (section, label), paths in groups.items():
        if section == "train" and label != "good":
            place = PurePosixPath(*PurePosixPath(paths[0]).parts[:2])
            raise LayoutError(
                f"{folder / place}: only good parts are trained on; move the images to "
                f"{folder / 'test' / place.name}, or to {folder / 'train' / 'good'} if they are "
                "good."
            )
        for path in paths if section != _MASKS else ():
            inner = {folded(part): part for part in PurePosixPath(path).parts[2:-1]}
            against = inner.keys() & (defects if label == "good" else {"good", "ok"})
            if against:
                inside = folder / PurePosixPath(path).parent
                raise LayoutError(
                    f"{inside}: the folder {inner[min(against)]} is inside {label}, so that nobody "
                    f"can tell whether its parts are good; move it beside {label}."
                )


def _image_file(section: str, path: str, mask: str | None) -> ImageFile:
    label = PurePosixPath(path).parts[1]
    if is_normal_folder(label):
        return ImageFile(path, "test" if section == "test" else "train", "good", mask)
    return ImageFile(path, "test" if section == "test" else "feedback", label, mask)


def _label(folder_name: str) -> str:
    return "good" if is_normal_folder(folder_name) else folded(folder_name)


def _has_image_suffix(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


def _has_train(folder: Path) -> bool:
    try:
        return any(folded(one.name) == "train" for one in _folders(folder))
    except LayoutError:
        return True  # the scan of this category says why it cannot be read


def _folders(folder: Path) -> list[Path]:
    """The visible folders in a folder, sorted; none without it."""
    return [
        folder / one.name for one in _entries(folder) if one.is_dir() and not is_litter(one.name)
    ]


def _litter(path: str) -> str | None:
    """The path, or its first folder, that another program has left; None: an image or a mask."""
    parts = PurePosixPath(path).parts
    return next(
        ("/".join(parts[: depth + 1]) for depth, part in enumerate(parts) if is_litter(part)), None
    )


def visible_files(folder: Path, root: Path | None, above: tuple[Path, ...] = ()) -> Iterator[str]:
    """POSIX paths of the files below a folder that are not hidden, relative to the folder.

    Args:
        folder: of a category.
        root: the image set's folder, which links may not leave; None: they may lead anywhere.
        above: the folders that lead to ``folder``, resolved.

    Raises:
        LayoutError: a link leaves the image set or leads to a folder above it, a folder cannot be
            read, an entry is no file or has a name that is not UTF-8.
    """
    here = _resolved_inside(folder, root)
    if here in above:
        raise LayoutError(f"{folder}: a symbolic link to a folder that it lies in; remove it.")
    for entry in _entries(folder):
        path = folder / entry.name
        if not is_text(entry.name):
            raise LayoutError(
                f"{encodable(str(path))}: the name is not valid UTF-8, so that DVC cannot version "
                "the file; rename it."
            )
        if entry.is_symlink():
            _resolved_inside(path, root)
        if entry.is_dir():
            for below in visible_files(path, root, (*above, here)):
                yield f"{entry.name}/{below}"
        elif entry.is_file():
            yield entry.name
        else:
            raise LayoutError(f"{path}: not a regular file; remove it.")


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    """Visible entries, sorted by name; none without a folder."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise LayoutError(
            f"{folder}: cannot be read ({error.strerror}); check its permissions."
        ) from error
    return [entry for entry in entries if not entry.name.startswith(".")]


def _resolved_inside(path: Path, root: Path | None) -> Path:
    """What a path leads to: a place in the image set, or a file of a DVC cache that DVC linked."""
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError as error:
        if not path.is_symlink():
            return path
        raise _broken_link(path) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop, before Python 3.13
        raise _broken_link(path) from error
    if root is None or target.is_relative_to(root.resolve()) or _is_in_dvc_cache(target):
        return target
    raise LayoutError(
        f"{path}: leaves the image set by a symbolic link (to {target}); put the files themselves "
        "in its place, or copy them with 'stillwatch add CATEGORY FOLDER --follow-links'."
    )


def _is_in_dvc_cache(file: Path) -> bool:
    return _DVC_CACHE.fullmatch(file.as_posix()) is not None


def _broken_link(path: Path) -> LayoutError:
    return LayoutError(
        f"{path}: a symbolic link to nothing; remove it, or put the file in its place."
    )
