"""The MLflow server over the local store, and where its pages are."""

import sys
from pathlib import Path
from urllib.parse import urlparse

from flows.processes import StartedServer, start_server
from flows.service_register import read_services
from stillwatch.settings import Settings

LOG_FILE = "mlflow-server.log"
PREFERRED_PORT = 5000


def pages_address(settings: Settings) -> str:
    """Where a browser finds MLflow; with a local store, while ``stillwatch up`` has it running."""
    uri = settings.tracking.uri
    if uri is not None and urlparse(uri).scheme in {"http", "https"}:
        return uri.rstrip("/")
    started = read_services(settings.state_dir).mlflow
    return started.url if started is not None else f"http://127.0.0.1:{PREFERRED_PORT}"


def start_mlflow_server(store_uri: str, artifacts: Path, folder: Path) -> StartedServer:
    """Start an MLflow server over a local store and wait until it answers.

    Args:
        store_uri: the tracking store, for example ``sqlite:////…/mlflow.db``.
        artifacts: folder of the artifacts that the server hands out.
        folder: for its log.

    Raises:
        ServerError: the server did not start; the message names its log.
    """
    return start_server(
        lambda port: [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--backend-store-uri", store_uri, "--artifacts-destination", str(artifacts)),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        preferred_port=PREFERRED_PORT,
        health_path="/health",
        # stillwatch submits no MLflow jobs; their runner costs seven processes and 0.5 GB.
        environment=lambda _port: {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        log=folder / LOG_FILE,
    )
