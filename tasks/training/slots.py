"""Limit the number of concurrent jobs on each device, over all processes of a machine."""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import product
from pathlib import Path

from filelock import FileLock, Timeout

from stillwatch.files import storage_errors
from stillwatch.machine.threads import has_own_threads, usable_cores
from stillwatch.settings import Settings

_POLL_SECONDS = 0.2
_CPU_SLOTS = 2
"""Trainings at a time on a CPU: one does not keep all cores busy, and each needs a GB of memory."""


def slots_per_device(settings: Settings) -> int:
    """Trainings at a time on each device: ``runtime.slots_per_device``, or a default.

    On a CPU the default depends on the machine and on ``runtime.threads``, never on how many
    trainings there are: the slots share the cores, and another number of threads gives other
    floating-point sums and thus other weights under the same fingerprint. A training that runs
    alone leaves the cores of the other slot idle.
    """
    runtime = settings.runtime
    if runtime.slots_per_device is not None:
        return runtime.slots_per_device
    if runtime.task_runner == "ray" or _devices(settings) != ("cpu",):
        return 1
    free = 1 if has_own_threads(os.environ) else usable_cores() // (runtime.threads or 1)
    return max(1, min(_CPU_SLOTS, free))


@contextmanager
def training_device(settings: Settings) -> Iterator[str]:
    """Wait for a free slot of a device and yield the device to train on.

    Raises:
        SettingsError: ``training.device`` names a GPU that this machine does not have; the other
            functions of this module raise it as well.
    """
    if settings.runtime.task_runner == "ray":
        # Ray assigns the GPU itself, and its processes see only that GPU, as cuda:0.
        yield settings.training.device
        return
    devices = _devices(settings)
    with training_slot(settings.state_dir, devices, slots_per_device(settings)) as device:
        yield device


def training_threads(settings: Settings) -> int | None:
    """Threads of one training; None: Ray has given this process its share already."""
    runtime = settings.runtime
    if runtime.threads is not None or runtime.task_runner == "ray":
        return runtime.threads
    return max(1, usable_cores() // (slots_per_device(settings) * len(_devices(settings))))


@contextmanager
def evaluation_device(settings: Settings) -> Iterator[str]:
    """Yield the device to evaluate on: a GPU as ``training_device`` does, the CPU without waiting.

    Do not call while holding a slot: two processes could wait for each other forever.
    """
    if _without_slots(settings):
        yield settings.training.device
    else:
        with training_device(settings) as device:
            yield device


@contextmanager
def spare_device(settings: Settings) -> Iterator[str]:
    """Yield a GPU with a free slot, else the CPU, without waiting; for a small number of images."""
    found = None
    if not _without_slots(settings):
        found = _take_slot(settings.state_dir, _devices(settings), slots_per_device(settings))
    device, held = found or ("cpu", nullcontext())
    with held:
        yield device


@contextmanager
def training_slot(state_dir: Path, devices: Sequence[str], slots: int) -> Iterator[str]:
    """Wait for a free slot, hold it, and yield its device.

    A slot is a file lock, which the system frees when the process that holds it is killed. The
    device with the fewest jobs is taken.

    Args:
        state_dir: the state folder, which all processes of this machine share.
        devices: of this machine, for example ``cuda:0`` and ``cuda:1``.
        slots: number of slots per device.
    """
    while (found := _take_slot(state_dir, devices, slots)) is None:
        time.sleep(_POLL_SECONDS)
    device, held = found
    with held:
        yield device


def _take_slot(
    state_dir: Path, devices: Sequence[str], slots: int
) -> tuple[str, AbstractContextManager[object]] | None:
    """Take a free slot: its device, and the lock that frees the slot; None if all are taken."""
    folder = state_dir / "locks"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for slot, device in product(range(slots), devices):
        # Several machines may share a state folder; the names of their devices are the same.
        name = f"slot-{socket.gethostname()}-{device.replace(':', '-')}-{slot}.lock"
        with suppress(Timeout):
            return device, FileLock(folder / name).acquire(timeout=0)
    return None


def _without_slots(settings: Settings) -> bool:
    """Whether evaluations need no slot: Ray assigns the GPUs, or there is no GPU."""
    return settings.runtime.task_runner == "ray" or _devices(settings) == ("cpu",)


def _devices(settings: Settings) -> tuple[str, ...]:
    # Torch takes seconds to import, and an ingest that finds nothing new asks for no device.
    from stillwatch.machine.devices import usable_devices

    return usable_devices(settings.training.device)
