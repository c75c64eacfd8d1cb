"""After a fault nothing is lost, nothing is doubled, and the next run is green.

Each docstring says what is injected and what is expected; docs/reliability.md is made of them.
"""

import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tasks.git_repository import run_git
from tasks.progress import running_trainings
from tasks.tracking import FINGERPRINT
from tasks.unfinished_registrations import PARITY
from tests.flows.conftest import Plant, make_workspace_plant, write_image

pytestmark = [pytest.mark.servers, pytest.mark.faults]

NAME = "stillwatch-bolt"
RETRAIN = ("retrain", "--root", "images", "--category", "bolt", "--detector", "stfpm")


def test_killed_in_training(plant: Plant) -> None:
    """SIGKILL of `stillwatch retrain` in the middle of a training.

    The training's own process ends, too; the next run resumes from the checkpoint; one training,
    one version.
    """
    set_epochs(plant, 60)
    kill_when(plant.start(*RETRAIN), lambda: epochs_done(plant) > 3)
    wait_until(lambda: not processes_of(plant, "stillwatch.training_process"))
    assert green(plant).data.tags["stillwatch.resumed"] == "true"


def test_killed_in_registration(plant: Plant) -> None:
    """SIGKILL of `stillwatch retrain` between the creation of a version and its parity check.

    The unfinished version is no champion; the next run removes it with its model and registers the
    same training once.
    """
    kill_when(plant.start(*RETRAIN), lambda: unfinished_versions(plant) == 1)
    assert unfinished_versions(plant) == 1
    assert not client_of(plant).get_registered_model(NAME).aliases
    green(plant)


def test_killed_in_push(tmp_path: Path) -> None:
    """SIGKILL of `stillwatch data add` in the middle of the push to the DVC remote.

    The next run completes the remote, every image in it byte for byte; one commit, one tag.
    """
    plant = make_workspace_plant(tmp_path / "line")
    for number in range(600):
        write_image(plant.folder / "data/bolt/train/good" / f"new-{number:03}.png", 9000 + number)
    images = {path.read_bytes() for path in (plant.folder / "data").rglob("*.png")}
    remote = plant.state / "dvc-remote"

    def pushed() -> list[Path]:
        return [path for path in remote.rglob("*") if len(path.name) == len("f" * 30)]

    kill_when(plant.start("data", "add"), lambda: len(pushed()) > 0)
    assert len(pushed()) < len(images), "the push was over before the fault"
    done = plant.run("data", "add")
    assert done.returncode == 0, done.stderr
    assert {path.read_bytes() for path in pushed()} == images
    assert run_git(plant.folder, "tag", "--list", "data-*").split() == [b"data-1"]
    assert not run_git(plant.folder, "status", "--porcelain")


def green(plant: Plant) -> Run:
    """Retrain: it ends well with one finished training, one model and one version, the champion."""
    done = plant.run(*RETRAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    client = client_of(plant)
    (version,) = client.search_model_versions(f"name = '{NAME}'")
    assert PARITY in version.tags
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


def set_epochs(plant: Plant, epochs: int) -> None:
    """Trainings of some seconds, with a checkpoint after every epoch."""
    plant.set_params(
        training={"checkpoint_every": 1},
        detectors={"stfpm": {"epochs": epochs, "batch_size": 4}},
    )


def epochs_done(plant: Plant) -> int:
    return max((one.epoch for one in running_trainings(plant.state)), default=0)


def client_of(plant: Plant) -> MlflowClient:
    uri = f"sqlite:///{plant.state / 'mlflow' / 'mlflow.db'}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def unfinished_versions(plant: Plant) -> int:
    """Read past MLflow's client, which would make the tables that it does not find yet."""
    database = plant.state / "mlflow" / "mlflow.db"
    query = (
        "select count(*) from model_versions where name = ?1 and version not in "
        "(select version from model_version_tags where name = ?1 and key = ?2)"
    )
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            ((count,),) = connection.execute(query, (NAME, PARITY))
    except sqlite3.OperationalError:
        return 0
    return int(count)


def wait_until(happens: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    """Wait for the moment of a fault; fail if ``process`` ends before."""
    deadline = time.monotonic() + 240
    while not happens():
        assert time.monotonic() < deadline, "the moment never came"
        if process is not None and process.poll() is not None:
            pytest.fail(f"it ended before the fault: {process.communicate()[0]}")
        time.sleep(0.002)


def kill_when(process: "subprocess.Popen[str]", happens: Callable[[], bool]) -> None:
    """Kill this process alone, as the system does when memory runs out."""
    wait_until(happens, process)
    process.kill()
    process.communicate()


def processes_of(plant: Plant, module: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if module in process.cmdline() and process.environ()["HOME"].startswith(
                str(plant.folder)
            ):
                found.append(process)
        except (psutil.Error, KeyError):
            continue
    return found
