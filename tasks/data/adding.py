"""Add the images of a folder to a category of an image set: all of them, or none."""

import filecmp
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stillwatch.errors import ImageError, LayoutError
from stillwatch.images.layout import (
    IGNORE_FILE,
    IMAGE_SUFFIXES,
    REGION_FILE,
    check_category_name,
    check_defect_type,
    is_normal_folder,
    section_of,
    visible_files,
)
from stillwatch.images.mask_names import separate_masks
from stillwatch.tasks.data.importing import copy_file
from stillwatch.tasks.data.workspace import Log, Workspace, one_writer

logger = logging.getLogger(__name__)

_SECTIONS = ("train", "test", "ground_truth")
_NAMED = 3


@dataclass(frozen=True)
class AddedFiles:
    """The numbers of files that were copied, and that the category already had."""

    copied: int
    kept: int


def category_files(folder: Path) -> dict[str, Path]:
    """The files of one category in MVTec layout: POSIX path in the category's folder -> file.

    What else lies in the folder, for example a licence, is left out. A folder ``Train`` becomes
    ``train``.

    Raises:
        LayoutError: the folder is not there, or is not one category in MVTec layout.
    """
    _ensure_folder(folder)
    source = folder.resolve()
    files = {}
    for path in visible_files(source, source.parent):
        section = section_of(path)
        if section in _SECTIONS:
            files[section + path[path.index("/") :]] = source / path
        elif path in (REGION_FILE, IGNORE_FILE):
            files[path] = source / path
    if not any("/" in path for path in files):
        raise LayoutError(f"{folder}: {_other_layout(source)}")
    return files


def labelled_files(folder: Path, label: str, *, to_test: bool = False) -> dict[str, Path]:
    """The images of a folder that all have one label: POSIX path in the category's folder -> file.

    Args:
        folder: images; a mask may lie beside its image (``images.mask_names``).
        label: ``good``, or a defect type.
        to_test: good images are only tested with, and not learnt from; others always are.

    Raises:
        LayoutError: the folder is not there, has folders in it or no image, or the label is not
            allowed as a defect type.
    """
    if label != "good":
        _check_defect_type(label)
    _ensure_folder(folder)
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    inner = [entry.name for entry in entries if entry.is_dir()]
    if inner:
        raise LayoutError(
            f"{folder}: has folders in it ({_some(inner)}). Name the folder that holds the images."
        )
    images = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise LayoutError(
            f"{folder}: holds no image. Images end in {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    section = "train" if label == "good" and not to_test else "test"
    files = {f"{section}/{label}/{image.name}": image.resolve() for image in images}
    for mask in separate_masks(list(files))[1]:
        files[mask.replace(section, "ground_truth", 1)] = files.pop(mask)
    return files


def add_files(
    files: Mapping[str, Path], category: str, workspace: Workspace, *, log: Log = logger.warning
) -> AddedFiles:
    """Copy files into a category of the workspace's image set; nothing is versioned yet.

    All files are copied to a temporary folder and then renamed into place.

    Args:
        files: as ``category_files`` or ``labelled_files`` gives them.
        category: a new one, or one that the image set has.
        log: called with progress messages.

    Raises:
        LayoutError: the category's name is not allowed, or it would have no good image.
        ImageError: a file cannot be read, or the category has another one of the same name.
        StorageError: the disk is full, or the workspace cannot be written to.
    """
    check_category_name(category)
    folder = workspace.data / category
    with one_writer(workspace, log):
        if not (folder / "train").is_dir() and not any(path.startswith("train/") for path in files):
            raise LayoutError(
                f"{category}: has no image of a good part yet. Add those first: stillwatch add "
                f"{category} IMAGES --good."
            )
        new = {path: file for path, file in files.items() if not (folder / path).exists()}
        _ensure_equal({path: file for path, file in files.items() if path not in new}, folder)
        staging = workspace.root / ".dvc" / "tmp"
        with tempfile.TemporaryDirectory(dir=staging, prefix="add-") as temporary:
            staged = Path(temporary, category)
            for path, file in new.items():
                copy_file(file, staged / path, Path(temporary, "file"))
            if folder.exists():
                for path in new:
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    (staged / path).rename(folder / path)
            else:
                folder.parent.mkdir(parents=True, exist_ok=True)
                staged.rename(folder)
    return AddedFiles(len(new), len(files) - len(new))


def _ensure_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise LayoutError(f"{folder}: no such folder. Name a folder of images.")


def _check_defect_type(label: str) -> None:
    if is_normal_folder(label):
        raise LayoutError(f"defect type {label!r}: is the name for good parts, which --good adds.")
    check_defect_type(label)


def _other_layout(folder: Path) -> str:
    """What a folder is that is not one category in MVTec layout, and what to do."""
    categories = sorted(entry.parent.name for entry in folder.glob("*/train") if entry.is_dir())
    if categories:
        return f"holds several categories ({_some(categories)}). Name the folder of one of them."
    if any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in folder.iterdir()):
        return "has images and no folder train/good. Say what they show: --good or --defect NAME."
    return (
        "has no folder train/good with images of good parts, as in MVTec layout. For a folder of "
        "images, add --good or --defect NAME."
    )


def _ensure_equal(files: Mapping[str, Path], folder: Path) -> None:
    other = [
        path for path, file in files.items() if not filecmp.cmp(file, folder / path, shallow=False)
    ]
    if other:
        raise ImageError(
            f"{folder}: has other images of the same name ({_some(other)}). Rename yours; nothing "
            "was added."
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
