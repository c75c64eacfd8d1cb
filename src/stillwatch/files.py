"""Atomic files and folders, storage errors as sentences, and the MD5 of files.

A reader sees a whole file or none, whatever happens to the writer. Every function that writes
raises ``StorageError`` where the folder cannot be written to or the disk is full.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from stillwatch.errors import StorageError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it into place if the block succeeds."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it replaces ``path`` if the block succeeds."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield temporary
            temporary.chmod(0o755)
            _replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def ensure_writable(folder: Path) -> None:
    """Make ``folder`` and check that it can be written to, before a long computation."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def move_whole(source: Path, target: Path, *, staging: Path) -> None:
    """Move a file or folder to ``target``, across file systems by a complete copy first.

    Args:
        source: a file, a symbolic link, which is not followed, or a folder.
        target: nothing is there yet.
        staging: an existing folder on the target's file system.

    Raises:
        StorageError: the target cannot be written or the disk is full.
        OSError: the source cannot be moved, for whatever other reason.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _move_across(source, target, staging)


def file_md5(path: Path) -> str:
    """MD5 of a file, hexadecimal: the digest by which DVC and the manifest know an image."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def bytes_md5(data: bytes) -> str:
    """MD5 of the bytes of a file, hexadecimal, as ``file_md5``."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _move_across(source: Path, target: Path, staging: Path) -> None:
    is_folder = source.is_dir() and not source.is_symlink()
    with tempfile.TemporaryDirectory(dir=staging, prefix=".moving.") as folder:
        copy = Path(folder) / "copy"
        if is_folder:
            shutil.copytree(source, copy, symlinks=True)
        else:
            shutil.copy2(source, copy, follow_symlinks=False)
        copy.rename(target)
    if is_folder:
        shutil.rmtree(source)
        return
    try:
        source.unlink()
    except OSError:
        target.unlink()
        raise


def _replace_folder(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``, also while other processes do the same: the last one stays."""
    while True:
        try:
            new.replace(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
        retired = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
        with suppress(FileNotFoundError):
            path.replace(retired / path.name)
        shutil.rmtree(retired)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` about ``path`` into a ``StorageError`` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{path}: no space left on this disk. Free some space, or move the state folder "
                "(setting state_dir) to a larger disk; nothing half-written was left behind."
            ) from error
        if error.errno == errno.EFBIG:
            raise StorageError(
                f"{path}: larger than a file may be here. Raise the limit (ulimit -f), or move the "
                "state folder (setting state_dir) to another file system."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise StorageError(
                f"{path}: cannot be written ({error.strerror}). Choose a folder that you may write "
                "to, or change its permissions."
            ) from error
        raise
