"""Stand-ins for trainings, each with an evaluation, that end once all slots are taken.

    python -m tests.flows.filled_slots params.yaml

prints a JSON list: how many had begun when each ended.
"""

import json
import sys
import time
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from stillwatch.flows.runners import detector_runner, task_runner
from stillwatch.settings import Settings, load_settings
from stillwatch.tasks.training.slots import slots_per_device, training_device

PATIENCE_SECONDS = 60.0


@task(cache_policy=NO_CACHE)
def train(number: int, settings: Settings, folder: Path) -> int:
    """Hold a slot until as many are held as there are."""
    with training_device(settings):
        (folder / str(number)).touch()
        until = time.monotonic() + PATIENCE_SECONDS
        while _begun(folder) < slots_per_device(settings) and time.monotonic() < until:
            time.sleep(0.05)
        return _begun(folder)


@task(cache_policy=NO_CACHE)
def evaluate(trained: int) -> int:
    """Wait for a training."""
    return trained


@flow
def one_for_each_slot(settings: Settings) -> list[int]:
    """Submit trainings and evaluations as a retraining does: one after the other."""
    folder = settings.state_dir / f"begun-{settings.runtime.task_runner}"
    folder.mkdir(parents=True)
    with task_runner(settings) as here, detector_runner(settings, here) as runner:
        evaluated = []
        for number in range(slots_per_device(settings)):
            parameters = {"number": number, "settings": settings, "folder": folder}
            trained = runner.submit(train, parameters)
            evaluated.append(runner.submit(evaluate, {"trained": trained}))
        return [future.result() for future in evaluated]


def _begun(folder: Path) -> int:
    return len(list(folder.iterdir()))


if __name__ == "__main__":
    json.dump(one_for_each_slot(load_settings(Path(sys.argv[1]))), sys.stdout)
