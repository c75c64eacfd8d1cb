"""After SIGKILL nothing is lost, nothing is doubled, and the next run is green.

Each docstring says what is injected and what is expected; docs/reliability.md is made of them.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.git_repository import run_git
from tests.faults.moments import Started, trainings_of, wait_until
from tests.faults.retrainings import (
    NAME,
    RETRAIN,
    client_of,
    epochs_done,
    green,
    set_epochs,
    unfinished_versions,
)
from tests.flows.conftest import Plant, make_workspace_plant, write_image

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]


def test_killed_in_training(plant: Plant) -> None:
    """SIGKILL of `stillwatch retrain` in the middle of a training.

    The training's own process ends, too; the next run resumes from the checkpoint; one training,
    one version.
    """
    set_epochs(plant, 40)
    kill_when(Started(plant, *RETRAIN), lambda: epochs_done(plant) > 3)
    wait_until(lambda: not trainings_of(plant))
    assert green(plant).data.tags["stillwatch.resumed"] == "true"


def test_killed_in_registration(plant: Plant) -> None:
    """SIGKILL of `stillwatch retrain` between the creation of a version and its parity check.

    The unfinished version is no champion; the next run removes it with its model and registers the
    same training once.
    """
    kill_when(Started(plant, *RETRAIN), lambda: unfinished_versions(plant) == 1)
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

    kill_when(Started(plant, "data", "add"), lambda: len(pushed()) > 0)
    assert len(pushed()) < len(images), "the push was over before the fault"
    done = plant.run("data", "add")
    assert done.returncode == 0, done.stderr
    assert {path.read_bytes() for path in pushed()} == images
    assert run_git(plant.folder, "tag", "--list", "data-*").split() == [b"data-1"]
    assert not run_git(plant.folder, "status", "--porcelain")


def kill_when(started: Started, happens: Callable[[], bool]) -> None:
    started.wait_until(happens)
    started.kill()
