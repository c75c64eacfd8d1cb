"""Locks of the state folder, for the threads and processes of one machine."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from stillwatch.files import storage_errors
from stillwatch.settings import Settings


@contextmanager
def exclusive(settings: Settings, name: str, doing: str) -> Iterator[None]:
    """Hold a lock of the state folder; log a warning while another process holds it.

    Args:
        settings: name the state folder.
        name: of the lock; part of its file name.
        doing: what the holder does, for the warning.

    Raises:
        StorageError: the state folder cannot be written to.
    """
    folder = settings.state_dir / "locks"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logging.getLogger(__name__).warning("Another stillwatch is %s: waiting for it.", doing)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
