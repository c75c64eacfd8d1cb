"""When the disk is full nothing is lost, nothing is doubled, and the next run is green.

Each docstring says what is injected and what is expected; docs/reliability.md is made of them.
"""

from pathlib import Path

import pytest
from made_prefect import new_prefect_database
from small_disk import small_disk
from tests.faults.moments import Started
from tests.faults.retrainings import RETRAIN, epochs_done, green, set_epochs
from tests.flows.conftest import Plant

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_disk_full(plant: Plant) -> None:
    """The disk of the state folder becomes full during a training.

    The run fails with an error that names the file and says what to do. No half-written checkpoint
    is left. With free space, the next run resumes from the last complete checkpoint and registers
    one version.
    """
    with small_disk(plant.state, size="300m"):
        new_prefect_database(plant.state)
        set_epochs(plant, 40)
        started = Started(plant, *RETRAIN)
        started.wait_until(lambda: epochs_done(plant) > 3)
        ballast = plant.state / "ballast"
        fill(ballast)
        assert started.exit_code() == 1, started.said
        (checkpoints,) = plant.state.glob("trainings/*/checkpoint")
        file = checkpoints / "checkpoint.safetensors"
        assert f"{file}: no space left on this disk. Free some space" in started.said
        assert list(checkpoints.iterdir()) == [file]
        ballast.unlink()
        assert green(plant).data.tags["stillwatch.resumed"] == "true"


def fill(ballast: Path) -> None:
    """Write until the disk is full."""
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**10, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
