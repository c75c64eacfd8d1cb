"""``stillwatch up`` and ``down`` when something has gone amiss before."""

import json
from collections.abc import Iterator

import psutil
import pytest
from made_prefect import new_prefect_database
from prefect import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from tests.flows.conftest import Plant, make_workspace_plant
from tests.flows.started_services import processes_of
from tests.flows.waiting import until

from stillwatch.flows.servers.mlflow_server import mlflow_service
from stillwatch.flows.servers.prefect_server import local_server, prefect_api
from stillwatch.flows.servers.service import RunningService, Service, answers
from stillwatch.flows.servers.worker import worker_service
from stillwatch.settings import Settings

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.xdist_group("services_amiss")]


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
        servers = local_server(Settings(state_dir=plant.state)), mlflow_service(plant.state)
        until(lambda: all(server.running() for server in servers))
        up.kill()
    assert len(processes_of(plant)) >= 2
    assert plant.run("down").returncode == 0
    assert processes_of(plant) == []


def test_up_replaces_what_hangs_and_a_worker_of_another_server(plant: Plant) -> None:
    assert plant.run("up").returncode == 0
    services = mlflow_service(plant.state), worker_service(plant.state)
    mlflow, worker = map(running, services)
    for process in family(mlflow):
        process.suspend()
    record = plant.state / "prefect" / "worker.json"
    content = json.loads(record.read_text(encoding="utf-8"))
    content["settings"]["PREFECT_API_URL"] = "http://127.0.0.1:1/api"
    record.write_text(json.dumps(content), encoding="utf-8")
    again = plant.run("up")
    assert again.returncode == 0, again.stderr
    new_mlflow, new_worker = map(running, services)
    assert answers(new_mlflow.health_url)
    assert new_worker.settings == worker.settings
    assert {mlflow.pid, worker.pid}.isdisjoint(one.pid for one in processes_of(plant))
    (process,) = (one for one in processes_of(plant) if "worker" in one.cmdline())
    assert process.pid == new_worker.pid


def test_down_stops_the_runs_of_a_worker_that_has_died(plant: Plant) -> None:
    assert plant.run("up").returncode == 0
    with prefect_api(Settings(state_dir=plant.state)), get_client(sync_client=True) as client:
        retrain = FlowFilter(name=FlowFilterName(any_=["retrain"]))
        (deployment,) = client.read_deployments(flow_filter=retrain)
        client.create_flow_run_from_deployment(
            deployment.id, parameters={"categories": ["bolt"], "detectors": ["stfpm"]}
        )
    until(lambda: bool(trainings_of(plant)))
    worker = worker_service(plant.state)
    psutil.Process(running(worker).pid).kill()
    until(lambda: worker.running() is None)
    assert trainings_of(plant)
    assert plant.run("down").returncode == 0
    assert processes_of(plant) == []


def test_in_the_foreground_the_end_of_the_prefect_server_is_seen(plant: Plant) -> None:
    with plant.start("up", "--foreground") as up:
        assert up.stdout is not None
        assert any("worker" in shown for shown in up.stdout)
        for process in family(running(local_server(Settings(state_dir=plant.state)))):
            process.kill()
        said, _ = up.communicate()
    assert up.returncode == 1
    assert "a service ended by itself" in said
    assert processes_of(plant) == []


def running(service: Service) -> RunningService:
    found = service.running()
    assert found is not None
    return found


def family(server: RunningService) -> list[psutil.Process]:
    parent = psutil.Process(server.pid)
    return [parent, *parent.children(recursive=True)]


def trainings_of(plant: Plant) -> list[psutil.Process]:
    return [one for one in processes_of(plant) if "stillwatch.training.child" in one.cmdline()]
