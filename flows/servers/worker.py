"""The Prefect worker and the trigger of a state folder.

The worker runs each flow run of a deployment in a process of its own. The trigger starts a flow run
when there is something to do.
"""

import sys
from pathlib import Path

from stillwatch.flows.servers.prefect_server import HEARTBEAT_SECONDS
from stillwatch.flows.servers.service import Service, unless_set

WORK_POOL = "stillwatch"
PARAMS_VARIABLE = "STILLWATCH_PARAMS"
"""Environment variable that names the settings file to the flows."""

_WORKER_PORT, _TRIGGER_PORT = 8080, 8081
"""Taken if they are free."""
_INTERVALS = {"PREFECT_WORKER_HEARTBEAT_SECONDS": "60", "PREFECT_WORKER_QUERY_SECONDS": "20"}
"""For each query, the server marks queues and deployments as ready in its database."""


def worker_service(state_dir: Path) -> Service:
    """The worker of a state folder, whether or not it runs."""
    return Service(state_dir / "prefect" / "worker.log")


def start_worker(worker: Service, settings: dict[str, str]) -> None:
    """Start a worker and wait until it answers; it does so while it polls for runs.

    ``settings`` are as ``worker_settings`` gives them.

    Raises:
        ServerError: it does not answer; the message names its log.
    """
    worker.start(
        lambda _port: [
            *(sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL),
            *("--type", "process", "--with-healthcheck"),
        ],
        preferred_port=_WORKER_PORT,
        health_path="/health",
        environment=lambda port: {
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
            "PREFECT_HOME": str(worker.log.parent),
            # The page of a run shows the lines of our loggers; outside a run, only the log does.
            "PREFECT_LOGGING_EXTRA_LOGGERS": "stillwatch",
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            **unless_set(_INTERVALS),
            "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
            "PREFECT_WORKER_WEBSERVER_PORT": str(port),
            **settings,
        },
        settings=settings,
    )


def trigger_service(state_dir: Path) -> Service:
    """The trigger of a state folder, whether or not it runs."""
    return Service(state_dir / "prefect" / "trigger.log")


def start_trigger(trigger: Service, settings: dict[str, str]) -> None:
    """Start a trigger and wait until it answers; it does so between two polls.

    ``settings`` are as ``worker_settings`` gives them.
    """
    trigger.start(
        lambda port: [sys.executable, "-m", "stillwatch.flows.servers.trigger_process", str(port)],
        preferred_port=_TRIGGER_PORT,
        health_path="/health",
        environment=lambda _port: {"PREFECT_HOME": str(trigger.log.parent), **settings},
        settings=settings,
    )


def worker_settings(api_url: str, params: Path) -> dict[str, str]:
    """The environment variables that a worker and a trigger keep for their life.

    ``params`` is the settings file of the flows.
    """
    return {"PREFECT_API_URL": api_url, PARAMS_VARIABLE: str(params.resolve())}
