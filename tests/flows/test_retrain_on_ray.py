"""Trainings on the two nodes of a real Ray cluster; never more at a time than there are slots."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from absent_packages import without
from mlflow import MlflowClient
from prefect.settings import PREFECT_API_URL, temporary_settings
from tests.flows.conftest import Plant, make_plant
from tests.flows.filled_slots import one_for_each_slot
from tests.flows.held_slots import four
from tests.flows.ray_nodes import RayNodes, two_nodes
from tests.flows.real_stores import free_port

from stillwatch.errors import ServerError, SettingsError
from stillwatch.flows.runners import ensure_shared, ray_cluster
from stillwatch.flows.servers.prefect_server import prefect_api
from stillwatch.settings import RuntimeSettings, Settings, TrackingSettings, load_settings

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("retrain")]
needs_ray = pytest.mark.skipif(find_spec("prefect_ray") is None, reason="the extra ray is missing")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, prefect_url: str) -> Plant:
    """A plant of its own that reports to the Prefect server of the others."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    plant = make_plant(tmp_path_factory.mktemp("ray") / "line")
    plant.variables.update(token, PREFECT_API_URL=prefect_url)
    return plant


@pytest.fixture(scope="module")
def nodes(line: Plant) -> Iterator[RayNodes]:
    with two_nodes(line.environment()) as running:
        yield running


@pytest.mark.parametrize(
    "runner", ["thread", "process", pytest.param("ray", marks=[needs_ray, pytest.mark.ray])]
)
def test_four_trainings_on_two_slots_never_overlap_more_than_two(
    runner: str, line: Plant, plant: Plant, request: pytest.FixtureRequest
) -> None:
    runtime: dict[str, Any] = {"task_runner": runner, "slots_per_device": 2}
    if runner == "ray":
        # Each of the two nodes has one slot.
        nodes: RayNodes = request.getfixturevalue("nodes")
        runtime |= {"ray_address": nodes.address, "slots_per_device": 1}
    line.set_params(runtime=runtime)
    if runner == "thread":
        with prefect_api(Settings(state_dir=plant.state)):
            spans = four(load_settings(line.folder / "params.yaml"))
    else:
        spans = printed_by("tests.flows.held_slots", line)
    assert len(spans) == 4
    assert most_at_once(spans) <= 2
    if runner == "ray":
        on_node = {node: [span for span in spans if span[0] == node] for node, _, _ in spans}
        assert [most_at_once(held) for held in on_node.values()] == [1, 1]


@pytest.mark.parametrize("runner", ["thread", "process"])
def test_evaluations_that_wait_leave_no_slot_empty(runner: str, line: Plant, plant: Plant) -> None:
    line.set_params(runtime={"task_runner": runner, "slots_per_device": 3})
    if runner == "thread":
        with prefect_api(Settings(state_dir=plant.state)):
            begun = one_for_each_slot(load_settings(line.folder / "params.yaml"))
    else:
        begun = printed_by("tests.flows.filled_slots", line)
    assert begun == [3, 3, 3]


def printed_by(module: str, plant: Plant) -> Any:
    """What a module of these tests prints as JSON when it is run in the plant's folder."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, "params.yaml"],
        cwd=plant.folder,
        env=plant.environment() | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_ray
@pytest.mark.ray
def test_a_training_whose_node_is_killed_goes_on_at_another(line: Plant, nodes: RayNodes) -> None:
    epochs = {"epochs": 100, "batch_size": 4}
    line.set_params(
        runtime={"task_runner": "ray", "ray_address": nodes.address},
        detectors={"stfpm": epochs, "reverse_distillation": epochs},
        training={"checkpoint_every": 1},
    )
    report = line.folder / "report.json"
    retraining = line.start("retrain", "--root", "images", "--report", str(report))
    while len(checkpoints(line)) < 2 and retraining.poll() is None:
        time.sleep(0.2)
    nodes.kill_second()
    output, _ = retraining.communicate()
    assert retraining.returncode == 0, output
    bolt = json.loads(report.read_text(encoding="utf-8"))["categories"]["bolt"]
    assert bolt["status"] == "registered"
    assert set(bolt["detectors"]) == {"stfpm", "reverse_distillation"}

    runs = trainings(line)
    assert sorted(run.info.status for run in runs) == ["FINISHED", "FINISHED", "KILLED"]
    resumed = [run for run in runs if run.data.tags.get("stillwatch.resumed") == "true"]
    (killed,) = (run for run in runs if run.info.status == "KILLED")
    assert [run.info.run_name for run in resumed] == [killed.info.run_name]


def most_at_once(spans: list[tuple[int, float, float]]) -> int:
    return max(sum(start <= moment < end for _, start, end in spans) for _, moment, _ in spans)


def checkpoints(plant: Plant) -> list[Path]:
    return list(plant.state.glob("trainings/*/checkpoint/checkpoint.safetensors"))


def trainings(plant: Plant) -> list[Any]:
    client = MlflowClient(tracking_uri=f"sqlite:///{plant.state / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("stillwatch/bolt")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    return [run for run in runs if "stillwatch.fingerprint" in run.data.tags]


def ray_settings(address: str, **tracking: str) -> Settings:
    return Settings(
        runtime=RuntimeSettings(task_runner="ray", ray_address=address),
        tracking=TrackingSettings(**tracking),
    )


@needs_ray
def test_an_address_where_no_cluster_is_fails_at_once() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ServerError, match=f"{address}: no Ray cluster answers"):
        ray_cluster(ray_settings(address)).__enter__()


def test_without_ray_the_extra_is_named() -> None:
    code = (
        "from stillwatch.flows.runners import ray_cluster\n"
        "from stillwatch.settings import RuntimeSettings, Settings\n"
        "runtime = RuntimeSettings(task_runner='ray', ray_address='127.0.0.1:6379')\n"
        "ray_cluster(Settings(runtime=runtime)).__enter__()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", without({"prefect_ray"}, code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip install 'stillwatch[ray]'" in done.stderr


@pytest.mark.parametrize(
    ("tracking", "named"),
    [
        ({}, "tracking.uri"),
        ({"uri": "http://127.0.0.1:5000"}, "tracking.uri"),
        ({"uri": "postgresql://stillwatch@db.plant.example/mlflow"}, "tracking.uri"),
        ({"uri": "http://head.plant.example:5000"}, "PREFECT_API_URL"),
    ],
)
def test_what_other_machines_cannot_reach_is_refused(tracking: dict[str, str], named: str) -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:4200/api"}),
        pytest.raises(SettingsError, match=rf"^{named}.*2 machines \(head, node\)"),
    ):
        ensure_shared(ray_settings("head:6379", **tracking), ["head", "node"])
