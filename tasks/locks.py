"""Locks of the state folder, for the threads and processes of one machine."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from stillwatch.files import storage_errors
from stillwatch.settings import Settings

logger = logging.getLogger(__name__)


@contextmanager
def exclusive(settings: Settings, name: str, doing: str) -> Iterator[None]:
    """Hold a lock of the state folder; log a warning while another process holds it.

    Args:
        name: of the lock; part of its file name.
        doing: what the holder does, for the warning.
    """
    file = settings.state_dir / "locks" / f"{name}.lock"
    with held(file, f"Another stillwatch is {doing}: waiting for it."):
        yield


@contextmanager
def held(file: Path, message: str) -> Iterator[None]:
    """Hold the lock ``file``; log ``message`` as a warning while another process holds it."""
    lock = FileLock(file)
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning(message)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
