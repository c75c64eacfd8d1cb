"""One at a time, across threads and processes of one machine."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from stillwatch.files import storage_errors
from stillwatch.settings import Settings


@contextmanager
def exclusive(settings: Settings, name: str, doing: str) -> Iterator[None]:
    """Hold the lock ``name`` of the state folder; wait for whoever holds it, and say so.

    Args:
        settings: names the state folder.
        name: of the lock; a file name.
        doing: what somebody else is seen doing meanwhile, for the message.

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
