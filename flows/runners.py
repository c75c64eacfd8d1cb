"""What the tasks of a retraining run in: threads, processes, or the machines of a Ray cluster."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flows.ray_cluster import ray_cluster
from stillwatch.devices import usable_devices
from stillwatch.settings import Settings

_OVERLAP = 1
"""Tasks beside the trainings: one category is examined or evaluated while another is trained."""


def task_runner(settings: Settings) -> TaskRunner[Any]:
    """What tasks of this machine run in.

    Raises:
        SettingsError: ``training.device`` names a GPU that this machine does not have.
    """
    if settings.runtime.task_runner == "ray":
        return ThreadPoolTaskRunner(max_workers=1 + _OVERLAP)
    devices = len(usable_devices(settings.training.device))
    workers = devices * settings.runtime.slots_per_device + _OVERLAP
    if settings.runtime.task_runner == "process":
        return ProcessPoolTaskRunner(max_workers=workers)
    return ThreadPoolTaskRunner(max_workers=workers)


def detector_runner(
    settings: Settings, here: TaskRunner[Any]
) -> AbstractContextManager[TaskRunner[Any]]:
    """What detectors are trained and evaluated in: a Ray cluster, or else ``here``.

    Raises (from the context):
        StillwatchError: as ``ray_cluster``.
    """
    return ray_cluster(settings) if settings.runtime.task_runner == "ray" else nullcontext(here)
