"""Copy image files into a category of an image set: all of them, or none."""

import filecmp
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stillwatch.errors import ImageError, LayoutError
from stillwatch.images.layout import check_category_name, existing_path, section_of
from stillwatch.tasks.data.importing import copy_file
from stillwatch.tasks.data.workspace import Workspace, one_writer
from stillwatch.text import some_of


@dataclass(frozen=True)
class AddedFiles:
    """The numbers of files that were copied, and that the category already had."""

    copied: int
    kept: int


def add_files(files: Mapping[str, Path], category: str, workspace: Workspace) -> AddedFiles:
    """Copy files into a category of the workspace's image set; nothing is versioned yet.

    All files are copied to a temporary folder and then renamed into place.

    Args:
        files: POSIX path in the category's folder -> file, as ``images.source_layouts`` gives.
        category: a new one, or one that the image set has.

    Raises:
        LayoutError: the category's name is not allowed, or it would have no good image.
        ImageError: a file cannot be read, or the category has another one of the same name.
        StorageError: the disk is full, or the workspace cannot be written to.
    """
    check_category_name(category)
    folder = workspace.data / category
    with one_writer(workspace):
        files = _placed(files, folder)
        if not (folder / existing_path(folder, "train")).is_dir() and not any(
            section_of(path) == "train" for path in files
        ):
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


def _placed(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """The files with the paths that they get beside what the category has already."""
    placed: dict[str, Path] = {}
    for path, file in files.items():
        target = existing_path(folder, path)
        if target in placed:
            raise LayoutError(
                f"{file}: and {placed[target]} would both become {folder / target}; rename one of "
                "them."
            )
        placed[target] = file
    return placed


def _ensure_equal(files: Mapping[str, Path], folder: Path) -> None:
    other = [
        path for path, file in files.items() if not filecmp.cmp(file, folder / path, shallow=False)
    ]
    if other:
        raise ImageError(
            f"{folder}: has other images of the same name ({some_of(other)}). Rename yours; "
            "nothing was added."
        )
