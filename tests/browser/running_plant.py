"""A plant that is up, with one category that has a champion already."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from made_champions import MadeCategory
from made_detectors import small
from made_stores import new_store

from flows.deployments import PREFECT_FILE
from flows.mlflow_server import pages_address
from flows.prefect_server import LocalPrefectServer
from stillwatch.settings import Settings
from tests.flows.conftest import Plant, make_workspace_plant

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Running:
    """A plant that is up, and where its pages are."""

    plant: Plant
    prefect: str
    mlflow: str


@contextmanager
def running_plant(folder: Path) -> Iterator[Running]:
    """A plant whose category ``bolt`` has version 1 as champion; a person must agree to others."""
    plant = make_workspace_plant(folder / "line")
    plant.set_params(gate={"promotion": "approval"}, serving={"poll_seconds": 0.3})
    write_unscheduled(plant.folder / PREFECT_FILE)
    settings = small(Settings(state_dir=plant.state))
    category = MadeCategory(folder / "learnt" / "bolt", new_store(settings), settings)
    category.make_champion(category.register(alpha=0.2))
    try:
        started = plant.run("up")
        assert started.returncode == 0, started.stderr
        prefect = LocalPrefectServer(plant.state / "prefect", settings.services).running()
        assert prefect is not None
        yield Running(plant, prefect.removesuffix("/api"), pages_address(settings))
    finally:
        plant.run("down")


def write_unscheduled(file: Path) -> None:
    """Write the deployments without their schedules: nothing runs but what somebody starts."""
    content = yaml.safe_load((ROOT / PREFECT_FILE).read_text(encoding="utf-8"))
    for deployment in content["deployments"]:
        deployment.pop("schedules", None)
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
