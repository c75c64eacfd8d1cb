"""Bringing an image set from elsewhere into a workspace; the source is only ever read."""

import fcntl
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
from stillwatch.tasks.data.workspace import Say, Workspace, one_writer

logger = logging.getLogger(__name__)

_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file until one is written to


@dataclass(frozen=True)
class ImportedFiles:
    """How many files an import brought, left as they were, and removed."""

    brought: int
    kept: int
    removed: int


def import_image_set(
    root: Path, workspace: Workspace, categories: list[str] | None, *, say: Say = logger.warning
) -> ImportedFiles:
    """Make the workspace's folders of these categories equal to those in ``root``.

    Every file under a category comes along but hidden ones, so that files that are no images are
    found by the checks. The workspace's other categories are left alone. A file of the same size
    and time is taken for the same; others come as reflinks or hard links where the file system
    allows, else as copies, each renamed into place whole. Since a hard link is the source's own
    file, nothing may write into a file of a workspace.

    Args:
        root: an image set in MVTec layout.
        workspace: where to.
        categories: their names, or None for all in ``root``.
        say: told when another process has to be waited for.

    Raises:
        LayoutError: no such category, or a symbolic link that leaves ``root``.
        ImageError: a file cannot be read.
        StorageError: the disk is full, or the workspace cannot be written to.
        WorkspaceError: ``root`` and the workspace lie in one another.
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
    with one_writer(workspace, say):
        removed = sum(_remove_others(workspace.data, name, sources) for name in chosen)
        brought = _bring_all(sources, workspace)
        for name in chosen:
            (workspace.data / name / "train").mkdir(parents=True, exist_ok=True)
    return ImportedFiles(brought, len(sources) - brought, removed)


def _chosen_folders(root: Path, categories: list[str] | None) -> dict[str, Path]:
    found = category_folders(root)
    if categories is None:
        return found
    for name in categories:
        check_category_name(name)
        if name not in found:
            raise LayoutError(
                f"{root}: has no category '{name}' (it has {', '.join(found)}). Correct the name, "
                f"or add the folder {name}/train/good."
            )
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
    """(POSIX path below the category's folder, file to read) of what is imported, links followed.

    Args:
        folder: the category's.
        root: the image set's, resolved.
        prefix: of the paths.
        above: the folders that ``folder`` was reached by.

    Raises:
        LayoutError: a link that leaves the image set or goes in a circle, or what is no file.
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


def _bring_all(sources: dict[str, Path], workspace: Workspace) -> int:
    brought = 0
    # Not among the images, where a killed import would leave a half file to be versioned.
    staging = Path(tempfile.mkdtemp(dir=workspace.root / ".dvc" / "tmp", prefix="import-"))
    try:
        for path, source in sources.items():
            target = workspace.data / path
            if not _same(source, target):
                _bring(source, target, staging / "file")
                brought += 1
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return brought


def _same(source: Path, target: Path) -> bool:
    try:
        there = target.lstat()
    except FileNotFoundError:
        return False
    here = source.stat()
    if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
        return True
    return (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)


def _bring(source: Path, target: Path, temporary: Path) -> None:
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not _reflink(source, temporary) and not _hard_link(source, temporary):
            _copy(source, temporary)
        temporary.replace(target)


def _reflink(source: Path, target: Path) -> bool:
    try:
        with source.open("rb") as read, target.open("wb") as written:
            fcntl.ioctl(written.fileno(), _FICLONE, read.fileno())
    except OSError:
        target.unlink(missing_ok=True)
        return False
    _take_time(source, target)
    return True


def _hard_link(source: Path, target: Path) -> bool:
    try:
        target.hardlink_to(source)
    except OSError:
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    try:
        read = source.open("rb")
    except OSError as error:
        raise ImageError(
            f"{source}: cannot be read ({error.strerror}); check its permissions."
        ) from error
    with read, target.open("wb") as written:
        shutil.copyfileobj(read, written, 1 << 20)
    _take_time(source, target)


def _take_time(source: Path, target: Path) -> None:
    stat = source.stat()
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
