"""What a plant whose services are up says of itself, and a person who presses *Run*."""

import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient
from tests.flows.conftest import Plant

from stillwatch.flows.servers.prefect_server import local_api
from stillwatch.settings import Settings


def status(plant: Plant) -> dict[str, dict[str, Any]]:
    shown = json.loads(plant.run_here("status", "--json").stdout)
    return {one["name"]: one for one in shown["services"]}


class Api:
    """The Prefect API, as the UI uses it."""

    def __init__(self, state_dir: Path) -> None:
        self.url = local_api(Settings(state_dir=state_dir))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(  # noqa: S310
            f"{self.url}/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        for last in (False,) * 9 + (True,):
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
                    return json.load(reply)
            except urllib.error.HTTPError as error:
                # A server that is short of time says so, and Prefect's own client tries again.
                if last or error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
            time.sleep(1)
        return None

    def run(self, flow: str, **parameters: Any) -> dict[str, Any]:
        """Press *Run* and wait for the end."""
        started = self.start(flow, **parameters)
        return self.wait_for(lambda run: run["id"] == started["id"])

    def start(self, flow: str, **parameters: Any) -> dict[str, Any]:
        """Press *Run*."""
        (deployment,) = self.post("deployments/filter", {"flows": {"name": {"any_": [flow]}}})
        path = f"deployments/{deployment['id']}/create_flow_run"
        started: dict[str, Any] = self.post(path, {"parameters": parameters})
        return started

    def warnings(self) -> list[str]:
        """What the pages of all runs show as warnings."""
        logs = self.post("logs/filter", {"logs": {"level": {"ge_": logging.WARNING}}})
        return [line["message"] for line in logs]

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first flow run that is wanted, when it has ended."""
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline:
            for run in self.post("flow_runs/filter", {"sort": "START_TIME_DESC"}):
                ended = run["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
                if wanted(run) and ended:
                    found: dict[str, Any] = run
                    return found
            time.sleep(1)
        raise AssertionError("no such flow run ended in time")


def client_of(plant: Plant) -> MlflowClient:
    uri = f"sqlite:///{plant.state / 'mlflow' / 'mlflow.db'}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def versions(plant: Plant) -> list[int]:
    found = client_of(plant).search_model_versions("name='stillwatch-bolt'")
    return sorted(int(one.version) for one in found)


def processes_of(plant: Plant) -> list[psutil.Process]:
    """All that is told of the plant's state folder, by its command or its environment."""
    return [one for one in psutil.process_iter() if _belongs_to(one, plant.state)]


def _belongs_to(process: psutil.Process, folder: Path) -> bool:
    try:
        return str(folder) in " ".join(process.cmdline()) + str(process.environ())
    except psutil.Error:
        return False
