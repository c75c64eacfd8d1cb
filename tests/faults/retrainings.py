"""The retraining that faults are injected into, and the green one that must follow."""

import sqlite3
from contextlib import closing
from typing import Any

from mlflow.entities import Run
from tests.flows.conftest import Plant
from tests.flows.started_services import client_of

from stillwatch.tasks.registry.cleanup import LAST_TAG
from stillwatch.tasks.tracking.tags import FINGERPRINT
from stillwatch.tasks.training.progress import running_trainings

NAME = "stillwatch-bolt"
RETRAIN = ("retrain", "--root", "images", "--category", "bolt", "--detector", "stfpm")


def green(plant: Plant) -> Run:
    """Retrain: it ends well, and everything is there once."""
    done = plant.run(*RETRAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    return registered_once(plant)


def registered_once(plant: Plant) -> Run:
    """One finished training, which is returned, one model and one version, the champion."""
    client = client_of(plant)
    (version,) = client.search_model_versions(f"name = '{NAME}'")
    assert LAST_TAG in version.tags
    assert client.get_registered_model(NAME).aliases == {"champion": version.version}
    experiment = client.get_experiment_by_name("stillwatch/bolt")
    assert experiment is not None
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert model.artifact_location == version.source
    runs = client.search_runs([experiment.experiment_id])
    assert not [run for run in runs if run.info.status == "RUNNING"]
    (finished,) = (
        run for run in runs if run.info.status == "FINISHED" and FINGERPRINT in run.data.tags
    )
    assert version.run_id == finished.info.run_id
    return finished


def set_epochs(plant: Plant, epochs: int, **sections: Any) -> None:
    """Trainings of some seconds, with a checkpoint after every epoch."""
    plant.set_params(
        training={"checkpoint_every": 1},
        detectors={"stfpm": {"epochs": epochs, "batch_size": 4}},
        **sections,
    )


def epochs_done(plant: Plant) -> int:
    return max((one.epoch for one in running_trainings(plant.state)), default=0)


def was_trained(run: Run) -> bool:
    """Whether this very run trained, and did not store what an earlier one had trained."""
    return "peak_memory_megabytes" in run.data.metrics


def losses_of(plant: Plant, run: Run) -> list[int]:
    """The epochs whose training loss the run holds."""
    (key,) = (name for name in run.data.metrics if name.endswith("/train_loss"))
    return [one.step for one in client_of(plant).get_metric_history(run.info.run_id, key)]


def unfinished_versions(plant: Plant) -> int:
    """Read past MLflow's client, which would make the tables that it does not find yet."""
    database = plant.state / "mlflow" / "mlflow.db"
    query = (
        "select count(*) from model_versions where name = ?1 and version not in "
        "(select version from model_version_tags where name = ?1 and key = ?2)"
    )
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            ((count,),) = connection.execute(query, (NAME, LAST_TAG))
    except sqlite3.OperationalError:
        return 0
    return int(count)
