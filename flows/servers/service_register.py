"""Which services of a state folder ``stillwatch up`` has started."""

import json
from pathlib import Path

from pydantic import BaseModel, ValidationError

from stillwatch.files import write_json
from stillwatch.flows.servers.processes import StartedServer


class StartedServices(BaseModel):
    """The services that are to be stopped again; the Prefect server has a register of its own."""

    mlflow: StartedServer | None = None
    worker: StartedServer | None = None
    worker_api: str | None = None
    """Of the Prefect server that the worker asks for runs."""
    worker_params: Path | None = None
    """The settings file of the worker's flows."""


def read_services(state_dir: Path) -> StartedServices:
    """What was started and not stopped again; it may have died since."""
    try:
        return StartedServices.model_validate_json(_file(state_dir).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return StartedServices()


def write_services(state_dir: Path, services: StartedServices) -> None:
    """Keep what is started.

    Raises:
        StorageError: the state folder cannot be written to.
    """
    write_json(_file(state_dir), json.loads(services.model_dump_json()))


def _file(state_dir: Path) -> Path:
    return state_dir / "services.json"
