"""The services of an installation on one machine: MLflow, Prefect, a worker and a trigger."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefect.settings import PREFECT_API_URL

from stillwatch.errors import ServerError
from stillwatch.flows.servers.automations import ensure_automations
from stillwatch.flows.servers.deployments import deploy, ensure_work_pool
from stillwatch.flows.servers.forms import offered_categories, update_forms
from stillwatch.flows.servers.mlflow_server import PASSWORDS as MLFLOW_PASSWORDS
from stillwatch.flows.servers.mlflow_server import mlflow_service, start_mlflow_server
from stillwatch.flows.servers.network import ensure_protected
from stillwatch.flows.servers.prefect_server import PASSWORDS as PREFECT_PASSWORDS
from stillwatch.flows.servers.prefect_server import local_server, prefect_api
from stillwatch.flows.servers.service import Service, answers
from stillwatch.flows.servers.worker import (
    start_trigger,
    start_worker,
    trigger_service,
    worker_service,
    worker_settings,
)
from stillwatch.settings import Settings
from stillwatch.tasks.tracking.client import open_tracking

_POLL_SECONDS = 2.0
_ANSWER_SECONDS = 30.0
"""A running service that does not answer within this time is replaced."""

State = Literal["running", "not running", "not answering"]


@dataclass(frozen=True)
class ServiceStatus:
    """One service as ``stillwatch status`` shows it."""

    name: str
    state: State
    url: str | None
    """Address of its pages; None if it has none."""
    log: str | None
    """File with its output; None if stillwatch never started it."""


class Services:
    """The services that belong to one state folder.

    A server that runs elsewhere (``tracking.uri``, ``PREFECT_API_URL``) is used and neither started
    nor stopped.

    Args:
        settings: name the state folder and an MLflow server that runs elsewhere.
        params: the file of these settings, which the worker's flows read.
    """

    def __init__(self, settings: Settings, params: Path) -> None:
        self._settings = settings
        self._params = params
        self._folder = settings.state_dir
        self._mlflow = mlflow_service(self._folder)
        self._prefect = local_server(settings)
        self._worker = worker_service(self._folder)
        self._trigger = trigger_service(self._folder)

    def up(self) -> None:
        """Start what does not run or answer, deploy ``prefect.yaml``, and return once all answer.

        A worker or a trigger of another Prefect server or with another settings file is replaced.

        Raises:
            SettingsError: a server would be reachable without passwords.
            ServerError: a service did not start, or a server that runs elsewhere does not answer.
        """
        ensure_protected(self._settings.services.host, self._passwords())
        with ThreadPoolExecutor() as threads:
            mlflow = threads.submit(self._up_mlflow)
            with prefect_api(self._settings) as api_url:
                mlflow.result()
                ensure_work_pool()
                ensure_automations()
                settings = worker_settings(api_url, self._params)
                _up(self._worker, start_worker, settings)
                deploy(api_url, self._params)
                update_forms(offered_categories(self._settings, open_tracking(self._settings)))
                _up(self._trigger, start_trigger, settings)

    def run(self, when_up: Callable[[], object]) -> None:
        """Start the services, and wait until a signal comes or a service ends by itself.

        Then stop what this call has started; what ran before goes on.

        Args:
            when_up: called once all services answer.

        Raises:
            SettingsError: as ``up``.
            ServerError: as ``up``, or a service ended by itself.
        """
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        services = self._in_order_of_stopping()
        before = [one.running() for one in services]
        try:
            self.up()
            needed = [one for one in services if one.running()]
            when_up()
            while all(one.running() for one in needed):
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            return
        finally:
            for service, earlier in zip(services, before, strict=True):
                if earlier is None or service.running() != earlier:
                    service.stop()
        raise ServerError(
            "a service ended by itself, so what this command had started was stopped. The logs in "
            f"{self._folder} say why."
        )

    def down(self) -> None:
        """Stop the services and the flow runs of the worker, the servers last.

        Also stops a Prefect server that a command started.
        """
        for service in self._in_order_of_stopping():
            service.stop()

    def status(self) -> list[ServiceStatus]:
        """The state of each service; nothing is changed."""
        return [
            _status("MLflow", self._mlflow, self._settings.tracking.server, "/health"),
            _status("Prefect", self._prefect, PREFECT_API_URL.value(), "/health"),
            _status("worker", self._worker),
            _status("trigger", self._trigger),
        ]

    def _in_order_of_stopping(self) -> tuple[Service, ...]:
        return self._trigger, self._worker, self._mlflow, self._prefect

    def _passwords(self) -> list[str]:
        """What must be in the environment before the servers may be reached from elsewhere."""
        return [
            *(() if PREFECT_API_URL.value() else PREFECT_PASSWORDS),
            *(() if self._settings.tracking.server else MLFLOW_PASSWORDS),
        ]

    def _up_mlflow(self) -> None:
        tracking = open_tracking(self._settings)
        if tracking.artifacts is None:
            return
        with self._mlflow.exclusive():
            if self._mlflow.usable(_ANSWER_SECONDS) is None:
                start_mlflow_server(
                    tracking.uri,
                    tracking.artifacts,
                    self._folder,
                    host=self._settings.services.host,
                )


def _up(
    service: Service, start: Callable[[Service, dict[str, str]], None], settings: dict[str, str]
) -> None:
    """Start a service unless it runs with these settings and answers."""
    with service.exclusive():
        running = service.usable(_ANSWER_SECONDS)
        if running is None or running.settings != settings:
            start(service, settings)


def _status(
    name: str, service: Service, elsewhere: str | None = None, health_path: str = ""
) -> ServiceStatus:
    """The state of a service, or of the server ``elsewhere`` that is used instead."""
    log = str(service.log) if service.log.exists() else None
    running = None if elsewhere else service.running()
    if elsewhere:
        url, health = elsewhere, f"{elsewhere}{health_path}"
    elif running is not None:
        url, health = running.url, running.health_url
    else:
        return ServiceStatus(name, "not running", None, log)
    state: State = "running" if answers(health) else "not answering"
    has_pages = name not in ("worker", "trigger")
    return ServiceStatus(name, state, url.removesuffix("/api") if has_pages else None, log)
