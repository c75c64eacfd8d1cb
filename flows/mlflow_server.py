"""MLflow's pages over the local store, for as long as somebody looks at them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

from flows.processes import start_server
from stillwatch.settings import TrackingSettings

PREFERRED_PORT = 5000


def pages_address(tracking: TrackingSettings) -> str:
    """Where a browser finds MLflow; with the local store only while ``stillwatch ui`` runs."""
    if tracking.uri is not None and urlparse(tracking.uri).scheme in {"http", "https"}:
        return tracking.uri.rstrip("/")
    return f"http://127.0.0.1:{PREFERRED_PORT}"


@contextmanager
def mlflow_pages(store_uri: str, artifacts: Path, folder: Path) -> Iterator[str]:
    """Yield the address of an MLflow server over ``store_uri``; stop it at the end.

    Args:
        store_uri: the tracking store, for example ``sqlite:////…/mlflow.db``.
        artifacts: folder of the artifacts that the server hands out.
        folder: for its log.

    Raises:
        ServerError: the server did not start; the message names its log.
    """
    server = start_server(
        lambda port: [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--backend-store-uri", store_uri, "--artifacts-destination", str(artifacts)),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        preferred_port=PREFERRED_PORT,
        health_path="/health",
        # stillwatch submits no MLflow jobs; their runner costs seven processes and 0.5 GB.
        environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        log=folder / "mlflow-server.log",
    )
    try:
        yield server.url
    finally:
        server.process.stop()
