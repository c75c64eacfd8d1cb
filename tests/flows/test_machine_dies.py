"""A power cut costs what was done since the last checkpoint."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.service_register import read_services
from tasks.progress import running_trainings
from tests.flows.conftest import Plant, make_workspace_plant
from tests.flows.started_services import Api, client_of, status, versions
from tests.flows.waiting import until

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("machine_dies")]


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """A plant with everything up."""
    plant = make_workspace_plant(tmp_path / "line")
    started = plant.run("up")
    assert started.returncode == 0, started.stderr
    yield plant
    plant.run("down")


@pytest.mark.timeout(1800)  # five minutes pass until Prefect takes it for dead
def test_a_run_whose_machine_dies_in_training_goes_on_from_its_checkpoint(plant: Plant) -> None:
    plant.set_params(
        inbox={"settle_seconds": 0},
        training={"checkpoint_every": 1},
        detectors={"stfpm": {"epochs": 200, "batch_size": 4}},
    )
    api = Api(plant)
    started = api.start("retrain", categories=["bolt"], detectors=["stfpm"])
    until(lambda: any(one.epoch > 3 for one in running_trainings(plant.state)))
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
    newest = client_of(plant).get_model_version("stillwatch-bolt", str(versions(plant)[-1]))
    run = client_of(plant).get_run(newest.run_id)
    assert run.data.tags["stillwatch.resumed"] == "true"
