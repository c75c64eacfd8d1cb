"""When a server goes nothing is lost, nothing is doubled, and the next run is green.

Each docstring says what is injected and what is expected; docs/reliability.md is made of them.
"""

import time
from dataclasses import replace

import psutil
import pytest
from tests.faults.killable_mlflow import killable_mlflow
from tests.faults.moments import Started, kill_family, trainings_of
from tests.faults.retrainings import (
    RETRAIN,
    epochs_done,
    green,
    losses_of,
    set_epochs,
    was_trained,
)
from tests.flows.conftest import Plant

from stillwatch.flows.servers.prefect_server import local_server
from stillwatch.settings import Settings

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_mlflow_server_gone_for_a_while(plant: Plant) -> None:
    """SIGKILL of the MLflow server during a training; the server is restarted before the training
    ends.

    The run logs a warning, continues and completes. No loss is missing, and none is logged twice.
    """
    with killable_mlflow(plant) as server:
        set_epochs(plant, 50, tracking={"uri": server.url})
        started = Started(plant, *RETRAIN)
        started.wait_until(lambda: epochs_done(plant) > 3)
        server.kill()
        (training,) = trainings_of(plant)
        while "The training goes on." not in started.said:
            let_an_epoch_pass(plant, started, training)
        assert "Check that the server is up" in started.said
        server.start()
        training.resume()
        assert started.exit_code() == 0, started.said
        run = green(plant)
        assert was_trained(run)
        assert losses_of(plant, run) == list(range(50))


def test_mlflow_server_stays_away(plant: Plant) -> None:
    """SIGKILL of the MLflow server during a training; the server stays down.

    The run fails with an error that names the server. The trained detector is kept, and the next
    run, with the server, registers the detector without another training.
    """
    with killable_mlflow(plant) as server:
        set_epochs(plant, 30, tracking={"uri": server.url})
        started = Started(plant, *RETRAIN)
        started.wait_until(lambda: epochs_done(plant) > 3)
        server.kill()
        assert started.exit_code() == 1, started.said
        sentence = f"stillwatch: bolt: stfpm: MLflow at {server.url} could not"
        assert sentence in started.said
        assert "no server answers there. Check that the server is up" in started.said
        assert list(plant.state.glob("trainings/*/bundle/bundle.json"))
        server.start()
        run = green(plant)
        assert not was_trained(run)
        assert losses_of(plant, run) == list(range(30))


def test_prefect_server_gone(plant: Plant) -> None:
    """SIGKILL of the Prefect server during a training.

    The run fails with an error that names the server. Its trained and registered detectors are
    kept, and the next run, with a new server, repeats none of them.
    """
    set_epochs(plant, 40)
    # By default Prefect's client tries each of its last requests for a minute.
    impatient = replace(plant, variables={"PREFECT_CLIENT_MAX_RETRIES": "2"})
    started = Started(impatient, *RETRAIN)
    started.wait_until(lambda: epochs_done(plant) > 3)
    server = local_server(Settings(state_dir=plant.state)).running()
    assert server is not None
    kill_family(server.pid)
    assert started.exit_code() == 1, started.said
    assert f"stillwatch: the Prefect server at {server.url}/api failed" in started.said
    green(plant)


def let_an_epoch_pass(plant: Plant, started: Started, training: psutil.Process) -> None:
    """So that the training is not over before somebody has missed the server."""
    before = epochs_done(plant)
    training.resume()
    started.wait_until(lambda: epochs_done(plant) > before)
    training.suspend()
    time.sleep(0.5)
