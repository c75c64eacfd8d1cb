"""So many jobs at a time on each device, whichever processes of a machine they belong to."""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import product
from pathlib import Path

from filelock import FileLock, Timeout

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
    devices = _devices(settings)
    with training_slot(settings.state_dir, devices, settings.runtime.slots_per_device) as device:
        yield device


@contextmanager
def evaluation_device(settings: Settings) -> Iterator[str]:
    """Yield the device to evaluate on: a GPU as ``training_device`` does, the CPU without waiting.

    Nobody may ask for it who holds a slot: both could wait for each other.

    Raises:
        SettingsError, StorageError: as ``training_device``.
    """
    if _without_slots(settings):
        yield settings.training.device
        return
    with training_device(settings) as device:
        yield device


@contextmanager
def spare_device(settings: Settings) -> Iterator[str]:
    """Yield a GPU that has room now, else the CPU: for few images that shall wait for no training.

    Raises:
        SettingsError, StorageError: as ``training_device``.
    """
    if _without_slots(settings):
        yield "cpu"
        return
    devices = _devices(settings)
    found = _take_slot(settings.state_dir, devices, settings.runtime.slots_per_device)
    if found is None:
        yield "cpu"
        return
    device, held = found
    with held:
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
    while (found := _take_slot(state_dir, devices, slots)) is None:
        time.sleep(_POLL_SECONDS)
    device, held = found
    with held:
        yield device


def _take_slot(
    state_dir: Path, devices: Sequence[str], slots: int
) -> tuple[str, AbstractContextManager[object]] | None:
    """A free slot's device and what frees it again; None if all are taken."""
    folder = state_dir / "locks"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for slot, device in product(range(slots), devices):
        # Machines may share a state folder; their devices have the same names.
        name = f"slot-{socket.gethostname()}-{device.replace(':', '-')}-{slot}.lock"
        with suppress(Timeout):
            return device, FileLock(folder / name).acquire(timeout=0)
    return None


def _without_slots(settings: Settings) -> bool:
    """Whether what is no training takes none: Ray gives out the GPUs, or there is none."""
    ray = settings.runtime.task_runner == "ray"
    return ray or _devices(settings) == ("cpu",)


def _devices(settings: Settings) -> tuple[str, ...]:
    # Torch takes seconds to import, and an ingest that finds nothing new asks for no device.
    from stillwatch.devices import usable_devices

    return usable_devices(settings.training.device)
