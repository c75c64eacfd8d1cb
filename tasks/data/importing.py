"""Import an image set from a folder into a workspace; the source is never written to."""

import os
import shutil
import tempfile
from pathlib import Path

from stillwatch.errors import ImageError, LayoutError, WorkspaceError
from stillwatch.files import storage_errors
from stillwatch.images.layout import category_folders, check_category_name, visible_files
from stillwatch.tasks.data.workspace import Workspace, one_writer
from stillwatch.text import CATEGORY_NAME, unknown_name


def import_image_set(
    root: Path, workspace: Workspace, categories: list[str] | None
) -> dict[str, str]:
    """Make the workspace's folders of these categories equal to those in ``root``.

    All files of a category are imported except hidden ones, so that the checks find files that are
    no images. If all categories are imported, those of which ``root`` has no folder are removed;
    otherwise the other categories of the workspace stay unchanged. Files with equal size and
    modification time count as equal; every other file is copied and then renamed into place. A
    category whose files cannot be listed is left as it was, and stops no other.

    Args:
        root: an image set in MVTec layout.
        categories: names; None: all in ``root``.

    Returns:
        Category -> why it was not imported, because its files cannot be listed.

    Raises:
        LayoutError: there is no such category.
        ImageError: a file cannot be read.
        StorageError: the disk is full, or the workspace cannot be written to.
        WorkspaceError: one of ``root`` and the workspace contains the other.
    """
    root = root.resolve()
    chosen = _chosen_folders(root, categories)
    for folder in chosen.values():
        _ensure_apart(folder, workspace.data.resolve())
    sources: dict[str, Path] = {}
    refused: dict[str, str] = {}
    for name, folder in chosen.items():
        try:
            sources |= {f"{name}/{path}": folder / path for path in visible_files(folder, root)}
        except LayoutError as error:
            refused[name] = str(error)
    listed = [name for name in chosen if name not in refused]
    with one_writer(workspace):
        for name in (*listed, *(_gone(root, workspace.data) if categories is None else ())):
            _remove_others(workspace.data, name, sources)
        _copy_all(sources, workspace)
        for name in listed:
            (workspace.data / name / "train").mkdir(parents=True, exist_ok=True)
    return refused


def _gone(root: Path, data: Path) -> list[str]:
    """The categories in ``data`` of which ``root`` has no folder, not even one without train."""
    return [
        folder.name
        for folder in sorted(data.glob("*/"))
        if CATEGORY_NAME.fullmatch(folder.name)
        and not folder.is_symlink()
        and not (root / folder.name).exists()
    ]


def _chosen_folders(root: Path, categories: list[str] | None) -> dict[str, Path]:
    found = category_folders(root)
    if categories is None:
        return found
    for name in categories:
        check_category_name(name)
        if name not in found:
            raise LayoutError(f"{root}: {unknown_name('category', name, list(found))}.")
    return {name: found[name] for name in categories}


def _ensure_apart(folder: Path, data: Path) -> None:
    if folder.is_relative_to(data) or data.is_relative_to(folder):
        raise WorkspaceError(
            f"{folder}: cannot be imported into {data}, as one lies in the other. Version it where "
            "it is, or move it."
        )


def _remove_others(data: Path, name: str, sources: dict[str, Path]) -> None:
    for folder, _, files in os.walk(data / name, topdown=False):
        for file in files:
            path = Path(folder, file)
            if path.relative_to(data).as_posix() not in sources:
                path.unlink()
        if not any(Path(folder).iterdir()):
            Path(folder).rmdir()


def _copy_all(sources: dict[str, Path], workspace: Workspace) -> None:
    # Outside the image set, where a killed import would leave a partial file to be versioned.
    staging = workspace.root / ".dvc" / "tmp"
    with tempfile.TemporaryDirectory(dir=staging, prefix="import-") as temporary:
        for path, source in sources.items():
            target = workspace.data / path
            if not _same(source, target):
                copy_file(source, target, Path(temporary, "file"))


def _same(source: Path, target: Path) -> bool:
    try:
        there = target.lstat()
    except FileNotFoundError:
        return False
    here = source.stat()
    return (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)


def copy_file(source: Path, target: Path, temporary: Path) -> None:
    """Copy a file with its times; never a hard link, by which an edit would change the source."""
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copy2(source, temporary)
        except OSError as error:
            if (error.filename, error.filename2) != (str(source), None):
                raise
            raise ImageError(
                f"{source}: cannot be read ({error.strerror}); check its permissions."
            ) from error
        temporary.replace(target)
