"""The trigger, a process that starts a flow run when there is something to do."""

import sys
from pathlib import Path

from stillwatch.flows.servers.service import Service

_PREFERRED_PORT = 8081


def trigger_service(state_dir: Path) -> Service:
    """The trigger of a state folder, whether or not it runs."""
    return Service(state_dir / "prefect" / "trigger.log")


def start_trigger(trigger: Service, settings: dict[str, str]) -> None:
    """Start a trigger and wait until it answers; it does so between two looks.

    Args:
        trigger: as ``trigger_service`` gives it.
        settings: as ``worker_settings`` gives them.

    Raises:
        ServerError: the trigger did not start; the message names its log.
        StorageError: the state folder cannot be written to.
    """
    trigger.start(
        lambda port: [sys.executable, "-m", "stillwatch.flows.servers.trigger_process", str(port)],
        preferred_port=_PREFERRED_PORT,
        health_path="/health",
        environment=lambda _port: {"PREFECT_HOME": str(trigger.log.parent), **settings},
        settings=settings,
    )
