"""The Prefect worker that runs deployments on this machine, each run in a process of its own."""

import sys
from collections.abc import Callable
from pathlib import Path

from stillwatch.flows.servers.prefect_server import HEARTBEAT_SECONDS
from stillwatch.flows.servers.processes import StartedServer, start_server

LOG_FILE = "worker.log"
WORK_POOL = "stillwatch"
PARAMS_VARIABLE = "STILLWATCH_PARAMS"
"""Names the settings file to the flows that the worker starts."""

_PREFERRED_PORT = 8080
_POLL_SECONDS = "2"


def start_worker(
    api_url: str, params: Path, folder: Path, register: Callable[[StartedServer], object]
) -> StartedServer:
    """Start a worker and wait until it answers; its URL tells whether it still polls.

    Args:
        api_url: of the Prefect server.
        params: the settings file of the flows.
        folder: for its log and Prefect's own files.
        register: is told of it before it answers.

    Raises:
        ServerError: it did not start; the message names its log.
    """
    return start_server(
        lambda _port: [
            *(sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL),
            *("--type", "process", "--with-healthcheck"),
        ],
        preferred_port=_PREFERRED_PORT,
        health_path="/health",
        environment=lambda port: {
            "PREFECT_API_URL": api_url,
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
            "PREFECT_HOME": str(folder),
            # What our own loggers say stands in the page of the run; before a run, only in the log.
            "PREFECT_LOGGING_EXTRA_LOGGERS": "stillwatch",
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            "PREFECT_WORKER_QUERY_SECONDS": _POLL_SECONDS,
            "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
            "PREFECT_WORKER_WEBSERVER_PORT": str(port),
            PARAMS_VARIABLE: str(params.resolve()),
        },
        log=folder / LOG_FILE,
        register=register,
    )
