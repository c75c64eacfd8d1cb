"""What the tasks of a retraining run in: threads, processes, or the machines of a Ray cluster."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from stillwatch.devices import usable_devices
from stillwatch.flows.ray_cluster import ray_cluster
from stillwatch.settings import Settings
from stillwatch.threads import has_own_threads, usable_cores

_OVERLAP = 1
"""Tasks beside the trainings: one category is examined or evaluated while another is trained."""
_CPU_SLOTS = 2
"""Trainings at a time on a CPU: one does not keep all cores busy, and each needs a GB of memory."""
_THREADS_PER_SLOT = 2
"""One for a training and one for its evaluation, which is submitted along with it and keeps a
thread until the training has ended. Of processes it keeps none: what a task waits for is waited for
in front of the pool. Neither does it with Ray, which starts no task before it can run."""


def with_slots(settings: Settings, trainings: int) -> Settings:
    """The settings with a number for ``runtime.slots_per_device``.

    On a CPU, two trainings that each have half of the cores end sooner than one after the other.

    Args:
        settings: all of them.
        trainings: how many there are to do.

    Raises:
        SettingsError: as ``task_runner``.
    """
    runtime = settings.runtime
    on_cpu = usable_devices(settings.training.device) == ("cpu",)
    if runtime.slots_per_device is not None or runtime.task_runner == "ray" or not on_cpu:
        return settings
    free = 1 if has_own_threads(os.environ) else usable_cores() // (runtime.threads or 1)
    slots = max(1, min(_CPU_SLOTS, free, trainings))
    return settings.model_copy(
        update={"runtime": runtime.model_copy(update={"slots_per_device": slots})}
    )


def task_runner(settings: Settings) -> TaskRunner[Any]:
    """What tasks of this machine run in.

    Raises:
        SettingsError: ``training.device`` names a GPU that this machine does not have.
    """
    if settings.runtime.task_runner == "ray":
        return ThreadPoolTaskRunner(max_workers=1 + _OVERLAP)
    slots = len(usable_devices(settings.training.device)) * settings.runtime.slots
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
