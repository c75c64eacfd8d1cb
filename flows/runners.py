"""What the tasks of a retraining run in: threads, processes, or the machines of a Ray cluster."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from stillwatch.devices import usable_devices
from stillwatch.flows.ray_cluster import ray_cluster
from stillwatch.settings import Settings

_OVERLAP = 1
"""Tasks beside the trainings: one category is examined or evaluated while another is trained."""
_THREADS_PER_SLOT = 2
"""One for a training and one for its evaluation, which is submitted along with it and keeps a
thread until the training has ended. Of processes it keeps none: what a task waits for is waited for
in front of the pool. Neither does it with Ray, which starts no task before it can run."""


def task_runner(settings: Settings) -> TaskRunner[Any]:
    """What tasks of this machine run in.

    Raises:
        SettingsError: ``training.device`` names a GPU that this machine does not have.
    """
    if settings.runtime.task_runner == "ray":
        return ThreadPoolTaskRunner(max_workers=1 + _OVERLAP)
    slots = len(usable_devices(settings.training.device)) * settings.runtime.slots_per_device
    if settings.runtime.task_runner == "process":
        return ProcessPoolTaskRunner(max_workers=slots + _OVERLAP)
    return ThreadPoolTaskRunner(max_workers=_THREADS_PER_SLOT * slots + _OVERLAP)


def detector_runner(
    settings: Settings, here: TaskRunner[Any]
) -> AbstractContextManager[TaskRunner[Any]]:
    """What detectors are trained and evaluated in: a Ray cluster, or else ``here``.

    Raises (from the context):
        StillwatchError: as ``ray_cluster``.
    """
    return ray_cluster(settings) if settings.runtime.task_runner == "ray" else nullcontext(here)
