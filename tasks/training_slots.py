"""So many trainings at a time on this machine, whichever processes they belong to."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from stillwatch.files import storage_errors

_POLL_SECONDS = 0.2


@contextmanager
def training_slot(state_dir: Path, slots: int) -> Iterator[None]:
    """Hold one of ``slots`` slots; wait until one is free.

    A slot is a file lock, so the system frees it when its holder is killed.

    Args:
        state_dir: the state folder, which all processes of this machine share.
        slots: how many there are.

    Raises:
        StorageError: the state folder cannot be written to.
    """
    folder = state_dir / "locks"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    while True:
        for slot in range(slots):
            lock = FileLock(folder / f"training-slot-{slot}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                yield
            finally:
                lock.release()
            return
        time.sleep(_POLL_SECONDS)
