"""``stillwatch up`` and ``down`` when something has gone amiss before."""

import json
from collections.abc import Iterator

import psutil
import pytest
import yaml
from made_prefect import new_prefect_database
from prefect import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from tests.flows.conftest import Plant, make_workspace_plant
from tests.flows.started_services import processes_of
from tests.flows.waiting import until

from stillwatch.flows.servers.deployments import PREFECT_FILE
from stillwatch.flows.servers.prefect_server import LocalPrefectServer, prefect_api
from stillwatch.flows.servers.processes import answers
from stillwatch.flows.servers.service_register import read_services, write_services
from stillwatch.settings import ServicesSettings, Settings
from stillwatch.tasks.liveness import ProcessIdentity

pytestmark = [pytest.mark.servers, pytest.mark.long, pytest.mark.xdist_group("services_amiss")]


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """One plant for all, whatever the test before has left running."""
    plant = make_workspace_plant(tmp_path_factory.mktemp("services") / "line")
    new_prefect_database(plant.state)
    plant.set_params(
        inbox={"settle_seconds": 0},
        training={"checkpoint_every": 1},
        detectors={"stfpm": {"epochs": 5000, "batch_size": 4}},
    )
    yield plant
    for process in processes_of(plant):
        process.kill()


def test_down_stops_what_a_killed_up_had_started(plant: Plant) -> None:
    with plant.start("up") as up:
        register = plant.state / "prefect" / "server.json"
        until(lambda: register.exists() and read_services(plant.state).mlflow is not None)
        up.kill()
    assert len(processes_of(plant)) >= 2
    assert plant.run("down").returncode == 0
    assert processes_of(plant) == []


def test_up_replaces_what_hangs_and_a_worker_of_another_server_and_names_what_is_left_over(
    plant: Plant,
) -> None:
    assert plant.run("up").returncode == 0
    before = read_services(plant.state)
    assert before.mlflow is not None
    assert before.worker is not None
    for process in family(before.mlflow.process):
        process.suspend()
    write_services(plant.state, before.model_copy(update={"worker_api": "http://127.0.0.1:1/api"}))
    file = plant.folder / PREFECT_FILE
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    left_over = content["deployments"].pop()["name"]
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    again = plant.run("up")
    assert again.returncode == 0, again.stderr
    assert f"has the deployment {left_over}, which" in " ".join(again.stderr.split())
    after = read_services(plant.state)
    assert after.mlflow is not None
    assert after.worker is not None
    assert answers(f"{after.mlflow.url}/health")
    assert after.worker_api == before.worker_api
    for server in (before.mlflow, before.worker):
        assert not server.process.is_alive()
    (worker,) = (one for one in processes_of(plant) if "worker" in one.cmdline())
    assert worker.pid == after.worker.process.pid


def test_down_stops_the_runs_of_a_worker_that_has_died(plant: Plant) -> None:
    assert plant.run("up").returncode == 0
    with prefect_api(Settings(state_dir=plant.state)), get_client(sync_client=True) as client:
        retrain = FlowFilter(name=FlowFilterName(any_=["retrain"]))
        (deployment,) = client.read_deployments(flow_filter=retrain)
        client.create_flow_run_from_deployment(
            deployment.id, parameters={"categories": ["bolt"], "detectors": ["stfpm"]}
        )
    until(lambda: bool(trainings_of(plant)))
    worker = read_services(plant.state).worker
    assert worker is not None
    psutil.Process(worker.process.pid).kill()
    until(lambda: not worker.process.is_alive())
    assert trainings_of(plant)
    assert plant.run("down").returncode == 0
    assert processes_of(plant) == []


def test_in_the_foreground_the_end_of_the_prefect_server_is_seen(plant: Plant) -> None:
    with plant.start("up", "--foreground") as up:
        assert up.stdout is not None
        assert any("worker" in shown for shown in up.stdout)
        local = LocalPrefectServer(plant.state / "prefect", ServicesSettings())
        assert local.running() is not None
        register = json.loads((plant.state / "prefect" / "server.json").read_text())
        for process in family(ProcessIdentity(*register["server"])):
            process.kill()
        said, _ = up.communicate()
    assert up.returncode == 1
    assert "a service ended by itself" in said
    assert processes_of(plant) == []


def family(server: ProcessIdentity) -> list[psutil.Process]:
    parent = psutil.Process(server.pid)
    return [parent, *parent.children(recursive=True)]


def trainings_of(plant: Plant) -> list[psutil.Process]:
    return [one for one in processes_of(plant) if "stillwatch.training.child" in one.cmdline()]
