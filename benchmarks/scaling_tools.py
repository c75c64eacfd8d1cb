"""A training that trains nothing, and what a task of it costs in Prefect and in MLflow alone."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from stillwatch.settings import Settings
from stillwatch.tasks.tracking.client import BUNDLE, Tracking, open_tracking
from stillwatch.tasks.tracking.entries import figures, training_data
from stillwatch.tasks.tracking.tags import EVALUATED, FINGERPRINT, STAGE
from stillwatch.tasks.training.fingerprint import find_finished_run
from stillwatch.tasks.training.losses import EpochLog

EPOCHS, PARAMS, FIGURES = 20, 30, 40
"""About as many as a training of stfpm and its evaluation log."""
BUNDLE_BYTES = 1_000


def train_nothing(tracking: Tracking, category: str, detector: str) -> None:
    """Everything that a training and its evaluation ask of MLflow, with a tiny bundle."""
    identity = uuid4().hex
    find_finished_run(tracking, category, identity)
    run_id = tracking.start_run(category, detector, {FINGERPRINT: identity})
    tracking.log(run_id, params={f"param_{number}": number for number in range(PARAMS)})
    tracking.log_data(run_id, training_data(category, "d" * 32, Path("data"), {"train": 1}))
    losses = EpochLog(tracking, run_id)
    for epoch in range(EPOCHS):
        losses.add("student", epoch, 1 / (epoch + 1), 1 / (epoch + 1))
    losses.flush()
    with TemporaryDirectory(prefix="stillwatch-") as folder:
        (Path(folder) / "bundle.json").write_bytes(bytes(BUNDLE_BYTES))
        tracking.log_folder(run_id, Path(folder), BUNDLE)
    tracking.log(run_id, metrics=figures({f"figure_{number}": 0.5 for number in range(FIGURES)}))
    tracking.log(run_id, tags={STAGE: EVALUATED})
    tracking.end_run(run_id, "FINISHED")


def mlflow_cost(settings: Settings, trainings: int) -> float:
    """Seconds of MLflow for each training, one after the other, in ten categories."""
    tracking = open_tracking(settings)
    began = time.perf_counter()
    for number in range(trainings):
        train_nothing(tracking, f"alone-{number % 10}", "nothing")
    return (time.perf_counter() - began) / trainings


def prefect_cost(tasks: int, workers: int) -> float:
    """Seconds of Prefect for each task of one flow run, so many at a time."""
    began = time.perf_counter()
    _empty_flow(tasks, workers)
    return (time.perf_counter() - began) / tasks


@task(name="nothing", cache_policy=NO_CACHE)
def _nothing(number: int) -> int:
    return number


@flow(name="nothing")
def _empty_flow(tasks: int, workers: int) -> None:
    with ThreadPoolTaskRunner(max_workers=workers) as runner:
        futures = [runner.submit(_nothing, {"number": number}) for number in range(tasks)]
        for future in futures:
            future.result()
