"""Four stand-ins for trainings, in the runner that a settings file names: who, from when to when.

    python -m tests.flows.held_slots params.yaml

prints a JSON list of (parent process, beginning, end); a Ray node's tasks have one parent.
"""

import json
import os
import sys
import time
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from stillwatch.flows.runners import detector_runner, task_runner
from stillwatch.settings import Settings, load_settings
from stillwatch.tasks.training.slots import training_device

SECONDS = 1.0
Span = tuple[int, float, float]


@task(cache_policy=NO_CACHE)
def hold(settings: Settings) -> Span:
    """Hold what a training holds."""
    with training_device(settings):
        began = time.time()
        time.sleep(SECONDS)
        return os.getppid(), began, time.time()


@flow
def four(settings: Settings) -> list[Span]:
    """Start them all at once."""
    with task_runner(settings) as here, detector_runner(settings, here) as runner:
        futures = [runner.submit(hold, {"settings": settings}) for _ in range(4)]
        return [future.result() for future in futures]


if __name__ == "__main__":
    json.dump(four(load_settings(Path(sys.argv[1]))), sys.stdout)
