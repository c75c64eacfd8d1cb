"""After SIGKILL of a worker and all that it started the run goes on by itself.

Each docstring says what is injected and what is expected; docs/reliability.md is made of them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from made_prefect import new_prefect_database
from tests.faults.moments import wait_until
from tests.faults.retrainings import (
    NAME,
    epochs_done,
    registered_once,
    set_epochs,
    unfinished_versions,
)
from tests.flows.conftest import Plant, make_workspace_plant, write_image
from tests.flows.started_services import Api, client_of, status

from stillwatch.flows.servers.worker import worker_service
from stillwatch.tasks.data.git import run_git

# Five minutes pass until Prefect takes a run for dead.
pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """A plant with everything up."""
    plant = make_workspace_plant(tmp_path / "line")
    new_prefect_database(plant.state)
    started = plant.run("up")
    assert started.returncode == 0, started.stderr
    yield plant
    plant.run("down")


def test_worker_killed_in_training(plant: Plant) -> None:
    """SIGKILL of the worker of `stillwatch up` and all its processes during a training.

    After `stillwatch up`, Prefect marks the run as crashed within minutes and restarts it. The run
    resumes from the checkpoint and registers one version.
    """
    set_epochs(plant, 50)
    run_id = killed_in_retraining(plant, when=lambda: epochs_done(plant) > 3)
    goes_on_by_itself(plant, run_id)
    assert registered_once(plant).data.tags["stillwatch.resumed"] == "true"


def test_worker_killed_in_registration(plant: Plant) -> None:
    """SIGKILL of the worker of `stillwatch up` and all its processes between the creation of a
    registered version and its parity check.

    After `stillwatch up`, Prefect marks the run as crashed within minutes and restarts it. The
    training is registered once.
    """
    run_id = killed_in_retraining(plant, when=lambda: unfinished_versions(plant) == 1)
    assert unfinished_versions(plant) == 1
    assert not client_of(plant).get_registered_model(NAME).aliases
    goes_on_by_itself(plant, run_id)
    registered_once(plant)


def test_worker_killed_in_push(plant: Plant) -> None:
    """SIGKILL of the worker of `stillwatch up` and all its processes during the push to the DVC
    remote.

    After `stillwatch up`, Prefect marks the run as crashed within minutes and restarts it. The run
    completes the push, every image byte for byte. There is one commit, one tag and one version.
    """
    for number in range(1500):
        write_image(plant.folder / "data/nut/train/good" / f"{number:04}.png", 9000 + number)
    images = {path.read_bytes() for path in (plant.folder / "data").rglob("*.png")}
    remote = plant.state / "dvc-remote"

    def pushed() -> list[Path]:
        return [path for path in remote.rglob("*") if len(path.name) == len("f" * 30)]

    run_id = killed_in_retraining(plant, when=lambda: len(pushed()) > 0)
    assert len(pushed()) < len(images), "the push was over before the fault"
    goes_on_by_itself(plant, run_id)
    assert {path.read_bytes() for path in pushed()} == images
    assert run_git(plant.folder, "tag", "--list", "data-*").split() == [b"data-1"]
    assert not run_git(plant.folder, "status", "--porcelain")
    registered_once(plant)


def killed_in_retraining(plant: Plant, *, when: Callable[[], bool]) -> str:
    """Press *Run*, kill the worker with all its processes, and return the id of the run."""
    started = Api(plant.state).start("retrain", categories=["bolt"], detectors=["stfpm"])
    worker = worker_service(plant.state).running()
    assert worker is not None
    parent = psutil.Process(worker.pid)
    wait_until(when)
    for process in (parent, *parent.children(recursive=True)):
        process.kill()
    assert status(plant)["worker"]["state"] == "not running"
    return str(started["id"])


def goes_on_by_itself(plant: Plant, run_id: str) -> None:
    """Be up again, and see the run end well."""
    assert plant.run("up").returncode == 0
    # Between the automation that finds it dead and the one that starts it again it is CRASHED.
    ended = Api(plant.state).wait_for(
        lambda run: run["id"] == run_id and run["state_type"] != "CRASHED"
    )
    assert (ended["state_type"], ended["run_count"]) == ("COMPLETED", 2), ended["state"]
