"""Whether the owner of a run or a service is alive, told by a file lock that the owner holds.

The kernel frees the lock when the owner dies, however it dies. Python opens files so that programs
which a process starts do not inherit them; a forked child closes its copies of the locks. The locks
of another host cannot be tested, so owners of another host count as alive.
"""

import atexit
import fcntl
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil

from stillwatch.files import storage_errors

HOST, LOCK = "stillwatch.host", "stillwatch.lock"
"""Tags of a run: the host of the process that owns it, and the path of that process's lock."""

_held: dict[Path, int] = {}
"""File -> descriptor, for the locks that this process holds until it ends."""
_own: dict[Path, Path] = {}
"""Folder -> the lock of this process in it."""


def lock_file(file: Path, *, wait: bool = False) -> int | None:
    """Lock a file, which is created if it does not exist.

    Args:
        file: in an existing folder.
        wait: wait for the lock while another owner holds it.

    Returns:
        A descriptor, which holds the lock until all its copies are closed; None if another owner
        holds the lock.
    """
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink > 0:
            return descriptor
        os.close(descriptor)  # the last owner removed the file after it was opened here


def is_held(file: Path) -> bool:
    """Whether an owner on this host holds the lock of a file; not if there is no such file."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def hold(file: Path) -> bool:
    """Lock a file until this process ends.

    Returns:
        False if another process holds the lock.
    """
    if file in _held:
        return True
    with storage_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = lock_file(file)
    if descriptor is None:
        return False
    _held[file] = descriptor
    return True


def owner_tags(folder: Path) -> dict[str, str]:
    """The tags of a run that this process owns; ``folder`` gets its lock at the first call."""
    host = socket.gethostname()
    if folder not in _own:
        file = folder.resolve() / f"process-{host}-{uuid4().hex}.lock"
        hold(file)
        _own[folder] = file
    return {HOST: host, LOCK: str(_own[folder])}


def may_be_alive(tags: Mapping[str, str]) -> bool:
    """Whether the owner of a run with these tags may be alive."""
    if tags.get(HOST) != socket.gethostname() or LOCK not in tags:
        return True
    return is_held(Path(tags[LOCK]))


def may_live_elsewhere(tags: Mapping[str, str]) -> bool:
    """Whether another process than this one may be alive and own a run with these tags."""
    own = tags.get(HOST) == socket.gethostname() and Path(tags.get(LOCK, "")) in _held
    return not own and may_be_alive(tags)


def os_user() -> str:
    """The OS account that runs this process; environment variables do not count."""
    return str(psutil.Process().username())


@atexit.register
def _remove_files() -> None:
    for file in _held:
        with suppress(OSError):
            file.unlink()


def _close_in_child() -> None:
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()
    _own.clear()


os.register_at_fork(after_in_child=_close_in_child)
