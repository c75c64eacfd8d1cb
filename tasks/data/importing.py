"""Import an image set from a folder into a workspace; the source is never written to."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stillwatch.errors import ImageError, LayoutError, WorkspaceError
from stillwatch.files import storage_errors
from stillwatch.images.layout import category_folders, check_category_name
from stillwatch.tasks.data.workspace import Log, Workspace, one_writer
from stillwatch.text import unknown_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportedFiles:
    """The numbers of files that an import copied, kept and removed."""

    copied: int
    kept: int
    removed: int


def import_image_set(
    root: Path, workspace: Workspace, categories: list[str] | None, *, log: Log = logger.warning
) -> ImportedFiles:
    """Make the workspace's folders of these categories equal to those in ``root``.

    All files of a category are imported except hidden ones, so that the checks find files that are
    no images. Other categories of the workspace stay unchanged. Files with equal size and
    modification time count as equal; every other file is copied and then renamed into place.

    Args:
        root: an image set in MVTec layout.
        categories: names; None: all in ``root``.
        log: called with progress messages.

    Raises:
        LayoutError: there is no such category, or a symbolic link leaves ``root``.
        ImageError: a file cannot be read.
        StorageError: the disk is full, or the workspace cannot be written to.
        WorkspaceError: one of ``root`` and the workspace contains the other.
    """
    root = root.resolve()
    chosen = _chosen_folders(root, categories)
    for folder in chosen.values():
        _ensure_apart(folder, workspace.data.resolve())
    sources = {
        f"{name}/{path}": source
        for name, folder in chosen.items()
        for path, source in visible_files(folder, root)
    }
    with one_writer(workspace, log):
        removed = sum(_remove_others(workspace.data, name, sources) for name in chosen)
        copied = _copy_all(sources, workspace)
        for name in chosen:
            (workspace.data / name / "train").mkdir(parents=True, exist_ok=True)
    return ImportedFiles(copied, len(sources) - copied, removed)


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


def visible_files(
    folder: Path, root: Path, prefix: str = "", above: tuple[Path, ...] = ()
) -> Iterator[tuple[str, Path]]:
    """Yield (POSIX path relative to the category's folder, file) of the files to import.

    Args:
        above: the folders that lead to ``folder``.

    Raises:
        LayoutError: a link leaves the image set or forms a cycle, or an entry is no file.
    """
    here = folder.resolve()
    if here in above:
        raise LayoutError(f"{folder}: a symbolic link to a folder that it lies in; remove it.")
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        target = entry.resolve()
        if not target.is_relative_to(root):
            raise LayoutError(
                f"{entry}: a symbolic link that leaves the image set (to {target}); put the file "
                "itself in its place."
            )
        path = f"{prefix}{entry.name}"
        if target.is_dir():
            yield from visible_files(entry, root, f"{path}/", (*above, here))
        elif target.is_file():
            yield path, target
        else:
            raise LayoutError(f"{entry}: neither a file nor a folder; remove it.")


def _remove_others(data: Path, name: str, sources: dict[str, Path]) -> int:
    removed = 0
    for folder, _, files in os.walk(data / name, topdown=False):
        for file in files:
            path = Path(folder, file)
            if path.relative_to(data).as_posix() not in sources:
                path.unlink()
                removed += 1
        if not any(Path(folder).iterdir()):
            Path(folder).rmdir()
    return removed


def _copy_all(sources: dict[str, Path], workspace: Workspace) -> int:
    copied = 0
    # Outside the image set, where a killed import would leave a partial file to be versioned.
    staging = Path(tempfile.mkdtemp(dir=workspace.root / ".dvc" / "tmp", prefix="import-"))
    try:
        for path, source in sources.items():
            target = workspace.data / path
            if not _same(source, target):
                copy_file(source, target, staging / "file")
                copied += 1
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return copied


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
