"""So many trainings at a time on each device, whichever processes of a machine they belong to."""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from filelock import FileLock, Timeout

from stillwatch.devices import usable_devices
from stillwatch.files import storage_errors
from stillwatch.settings import Settings

_POLL_SECONDS = 0.2


@contextmanager
def training_device(settings: Settings) -> Iterator[str]:
    """Yield the device to train on; wait until it has room.

    Raises:
        SettingsError: ``training.device`` names a GPU that this machine does not have.
        StorageError: the state folder cannot be written to.
    """
    if settings.runtime.task_runner == "ray":
        # Ray has given this process its share already, and calls every GPU that it gives cuda:0.
        yield settings.training.device
        return
    devices = usable_devices(settings.training.device)
    with training_slot(settings.state_dir, devices, settings.runtime.slots_per_device) as device:
        yield device


@contextmanager
def training_slot(state_dir: Path, devices: Sequence[str], slots: int) -> Iterator[str]:
    """Hold one of the devices' slots and yield its device; wait until one is free.

    A slot is a file lock, so the system frees it the moment that its holder is killed, and needs no
    server. The free device with the fewest trainings is taken.

    Args:
        state_dir: the state folder, which all processes of this machine share.
        devices: of this machine, for example ``cuda:0`` and ``cuda:1``.
        slots: how many each of them has.

    Raises:
        StorageError: the state folder cannot be written to.
    """
    folder = state_dir / "locks"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    while True:
        for slot, device in product(range(slots), devices):
            # Machines may share a state folder; their devices have the same names.
            name = f"slot-{socket.gethostname()}-{device.replace(':', '-')}-{slot}.lock"
            lock = FileLock(folder / name)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                yield device
            finally:
                lock.release()
            return
        time.sleep(_POLL_SECONDS)
