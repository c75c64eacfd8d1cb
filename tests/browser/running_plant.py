"""A plant that is up, with one category that has a champion already."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from made_champions import MadeCategory
from made_detectors import small
from made_stores import new_store
from tests.flows.conftest import Plant, make_workspace_plant

from stillwatch.flows.servers.mlflow_server import pages_address
from stillwatch.flows.servers.prefect_server import local_api
from stillwatch.settings import Settings


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
    settings = small(Settings(state_dir=plant.state))
    category = MadeCategory(folder / "learnt" / "bolt", new_store(settings), settings)
    category.make_champion(category.register(alpha=0.2))
    try:
        started = plant.run("up")
        assert started.returncode == 0, started.stderr
        prefect = local_api(settings)
        assert prefect is not None
        yield Running(plant, prefect.removesuffix("/api"), pages_address(settings))
    finally:
        plant.run("down")
