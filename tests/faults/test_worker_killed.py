"""After SIGKILL of a worker and all that it started the run goes on by itself.

Each docstring says what is injected and what is expected; docs/reliability.md is made of them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from made_prefect import new_prefect_database

from flows.service_register import read_services
from tests.faults.moments import wait_until
from tests.faults.retrainings import (
    NAME,
    client_of,
    epochs_done,
    set_epochs,
    unfinished_versions,
)
from tests.flows.conftest import Plant, make_workspace_plant
from tests.flows.started_services import Api, status

# Five minutes pass until Prefect takes a run for dead.
pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]


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
    """SIGKILL of the worker of `stillwatch up` and all its processes in the middle of a training.

    After `stillwatch up` the run is found dead within minutes and started again by itself; it
    resumes from the checkpoint and registers one version.
    """
    set_epochs(plant, 50)
    goes_on_by_itself(plant, when=lambda: epochs_done(plant) > 3)
    (version,) = client_of(plant).search_model_versions(f"name = '{NAME}'")
    assert client_of(plant).get_run(version.run_id).data.tags["stillwatch.resumed"] == "true"


def test_worker_killed_in_registration(plant: Plant) -> None:
    """SIGKILL of the worker of `stillwatch up` and all its processes between the creation of a
    version and its parity check.

    After `stillwatch up` the run is found dead within minutes and started again by itself; the same
    training is registered once.
    """
    goes_on_by_itself(plant, when=lambda: unfinished_versions(plant) == 1)
    (version,) = client_of(plant).search_model_versions(f"name = '{NAME}'")
    assert client_of(plant).get_registered_model(NAME).aliases == {"champion": version.version}


def goes_on_by_itself(plant: Plant, *, when: Callable[[], bool]) -> None:
    """Kill the worker during a retraining, be up again, and see the run end well."""
    api = Api(plant)
    started = api.start("retrain", categories=["bolt"], detectors=["stfpm"])
    wait_until(when)
    worker = read_services(plant.state).worker
    assert worker is not None
    parent = psutil.Process(worker.process.pid)
    for process in (parent, *parent.children(recursive=True)):
        process.kill()
    assert status(plant)["worker"]["state"] == "not answering"
    assert plant.run("up").returncode == 0
    # Between the automation that finds it dead and the one that starts it again it is CRASHED.
    ended = api.wait_for(lambda run: run["id"] == started["id"] and run["state_type"] != "CRASHED")
    assert (ended["state_type"], ended["run_count"]) == ("COMPLETED", 2), ended["state"]
