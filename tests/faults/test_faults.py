"""After a fault nothing is lost, nothing is doubled, and the next run is green.

Each docstring says what is injected and what is expected; docs/reliability.md is made of them.
"""

import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from flows.processes import ProcessIdentity, start_server
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


def test_mlflow_server_gone_for_a_while(plant: Plant) -> None:
    """SIGKILL of the MLflow server during a training; it is back before the training ends.

    The run goes on and ends well; no loss is missing and none is there twice.
    """
    with mlflow_server(plant) as server:
        set_epochs(plant, 150, tracking={"uri": server.url})
        process = plant.start(*RETRAIN)
        wait_until(lambda: epochs_done(plant) > 3, process)
        server.kill()
        time.sleep(6)  # losses are sent every five seconds
        (training,) = processes_of(plant, "stillwatch.training_process")
        training.suspend()
        assert process.stdout is not None
        said = next(line for line in process.stdout if "The training goes on." in line)
        assert "Check that the server is up" in said
        server.start()
        training.resume()
        output, _ = process.communicate()
        assert process.returncode == 0, output
    assert losses_of(plant, green(plant)) == list(range(150))


def test_mlflow_server_stays_away(plant: Plant) -> None:
    """SIGKILL of the MLflow server during a training; it does not come back.

    The run fails with a sentence that names the server; the next one, with the server, stores what
    was trained and trains nothing.
    """
    with mlflow_server(plant) as server:
        set_epochs(plant, 30, tracking={"uri": server.url})
        process = plant.start(*RETRAIN)
        wait_until(lambda: epochs_done(plant) > 3, process)
        server.kill()
        output, _ = process.communicate()
        assert process.returncode == 1
        assert f"MLflow at {server.url}" in " ".join(output.split())
        bundles = {path: path.stat().st_mtime_ns for path in plant.state.rglob("bundle.json")}
        assert bundles
        server.start()
        run = green(plant)
        assert losses_of(plant, run) == list(range(30))


def test_prefect_server_gone(plant: Plant) -> None:
    """SIGKILL of the Prefect server during a training.

    What was trained is kept, and the next run, with a new server, is green; one training.
    """
    set_epochs(plant, 60)
    process = plant.start(*RETRAIN)
    wait_until(lambda: epochs_done(plant) > 3, process)
    server = json.loads((plant.state / "prefect" / "server.json").read_text())["server"]
    kill_family(ProcessIdentity(*server))
    process.communicate()
    green(plant)


def test_disk_full(plant: Plant) -> None:
    """The disk of the state folder fills up during a training.

    The run fails with a sentence that says so; with room again the next one is green.
    """
    with small_disk(plant.state, megabytes=300):
        set_epochs(plant, 60)
        process = plant.start(*RETRAIN)
        wait_until(lambda: epochs_done(plant) > 3, process)
        ballast = plant.state / "ballast"
        fill(ballast)
        output, _ = process.communicate()
        assert process.returncode == 1
        assert "No space left" in output
        ballast.unlink()
        green(plant)


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


def set_epochs(plant: Plant, epochs: int, **sections: Any) -> None:
    """Trainings of some seconds, with a checkpoint after every epoch."""
    plant.set_params(
        training={"checkpoint_every": 1},
        detectors={"stfpm": {"epochs": epochs, "batch_size": 4}},
        **sections,
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


def losses_of(plant: Plant, run: Run) -> list[int]:
    """The epochs whose training loss the run holds."""
    (key,) = (name for name in run.data.metrics if name.endswith("/train_loss"))
    return [one.step for one in client_of(plant).get_metric_history(run.info.run_id, key)]


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


def kill_family(identity: ProcessIdentity) -> None:
    if not identity.is_alive():
        return
    parent = psutil.Process(identity.pid)
    for process in (parent, *parent.children(recursive=True)):
        process.kill()


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


class MlflowServer:
    """The plant's store behind a server that can be killed and started again."""

    def __init__(self, plant: Plant) -> None:
        self._folder = plant.state / "mlflow"
        self._folder.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Start it, every time at the same address."""
        started = start_server(
            lambda port: [
                *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"),
                *("--artifacts-destination", str(self._folder / "artifacts")),
                *("--port", str(port)),
            ],
            preferred_port=self._port,
            health_path="/health",
            environment=lambda _port: {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            log=self._folder / "server.log",
        )
        assert started.url == self.url
        self._process = started.process

    def kill(self) -> None:
        kill_family(self._process)


@contextmanager
def mlflow_server(plant: Plant) -> Iterator[MlflowServer]:
    server = MlflowServer(plant)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[None]:
    """A file system of its own for ``folder``; skip where this user may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(ballast: Path) -> None:
    """Write until the disk is full."""
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**10, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
