"""The services of an installation on one machine, both servers and a worker: up, seen, down."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock
from prefect.settings import PREFECT_API_URL

from stillwatch.errors import ServerError
from stillwatch.files import storage_errors
from stillwatch.flows.servers.automations import ensure_automations
from stillwatch.flows.servers.deployments import deploy, ensure_work_pool
from stillwatch.flows.servers.missed_runs import drop_missed_runs
from stillwatch.flows.servers.mlflow_server import LOG_FILE as MLFLOW_LOG
from stillwatch.flows.servers.mlflow_server import PASSWORDS as MLFLOW_PASSWORDS
from stillwatch.flows.servers.mlflow_server import start_mlflow_server
from stillwatch.flows.servers.network import ensure_protected
from stillwatch.flows.servers.prefect_server import PASSWORDS as PREFECT_PASSWORDS
from stillwatch.flows.servers.prefect_server import LocalPrefectServer, prefect_api
from stillwatch.flows.servers.processes import (
    StartedServer,
    answers,
    stop_service,
    wait_until_it_answers,
)
from stillwatch.flows.servers.service_register import StartedServices, read_services, write_services
from stillwatch.flows.servers.worker import LOG_FILE as WORKER_LOG
from stillwatch.flows.servers.worker import start_worker
from stillwatch.settings import Settings
from stillwatch.tasks.tracking.client import open_tracking

_LOOK_SECONDS = 2.0
_PATIENCE_SECONDS = 30.0
"""Less than for a start: a server that runs answers at once unless the machine is very busy."""

State = Literal["running", "not running", "not answering"]


@dataclass(frozen=True)
class ServiceStatus:
    """One service as ``stillwatch status`` shows it."""

    name: str
    state: State
    url: str | None
    """Address of its pages; None if it has none."""
    log: str | None
    """File with its output; None if it was not started by stillwatch."""


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
        self._mlflow_log = self._folder / MLFLOW_LOG
        self._worker_log = self._folder / "prefect" / WORKER_LOG
        self._prefect = LocalPrefectServer(self._folder / "prefect", settings.services)

    def up(self) -> None:
        """Start what does not run or answer, deploy ``prefect.yaml``, and return once all answer.

        A worker that asks another Prefect server for runs or has other settings is replaced.

        Raises:
            SettingsError: one would be reachable without passwords.
            ServerError: one did not start, or a server that runs elsewhere does not answer.
            StorageError: the state folder cannot be written to.
            TrackingError: the MLflow store cannot be opened.
        """
        ensure_protected(self._settings.services.host, self._passwords())
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        with self._locked(), ThreadPoolExecutor() as threads:
            mlflow = threads.submit(self._up_mlflow)
            with prefect_api(self._settings) as api_url:
                self._prefect.keep()
                mlflow.result()
                ensure_work_pool()
                ensure_automations()
                self._up_worker(api_url)
                deploy(api_url, self._params)

    def run(self, when_up: Callable[[], object]) -> None:
        """Be up until a signal comes or one of the services ends by itself; then be down.

        Args:
            when_up: called once all answer.

        Raises:
            ServerError: as ``up``, or a service ended by itself.
            SettingsError, StorageError, TrackingError: as ``up``.
        """
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            self.up()
            when_up()
            started = read_services(self._folder)
            while self._all_live(started):
                time.sleep(_LOOK_SECONDS)
        except KeyboardInterrupt:
            return
        finally:
            self.down()
        raise ServerError(
            f"a service ended by itself, so all were stopped. The logs in {self._folder} say why."
        )

    def down(self) -> None:
        """Stop what ``up`` started and what came of it, the worker first, and its runs.

        A Prefect server that a command is using ends with that command.

        Raises:
            StorageError: the state folder cannot be written to.
        """
        if not self._folder.exists():
            return
        with self._locked():
            started = read_services(self._folder)
            _stop(started.worker, self._worker_log)
            _stop(started.mlflow, self._mlflow_log)
            self._prefect.release()
            write_services(self._folder, StartedServices())

    def status(self) -> list[ServiceStatus]:
        """How each service is; nothing is changed."""
        started = read_services(self._folder)
        mlflow = self._settings.tracking.server or (started.mlflow and started.mlflow.url)
        prefect = PREFECT_API_URL.value() or self._prefect.running()
        worker = started.worker and started.worker.url
        return [
            ServiceStatus("MLflow", _state(mlflow), mlflow, _existing(self._mlflow_log)),
            ServiceStatus(
                "Prefect",
                _state(prefect),
                prefect and prefect.removesuffix("/api"),
                _existing(self._prefect.log),
            ),
            ServiceStatus("worker", _state(worker), None, _existing(self._worker_log)),
        ]

    def _all_live(self, started: StartedServices) -> bool:
        ours = (started.worker, started.mlflow)
        return all(one.process.is_alive() for one in ours if one is not None) and (
            bool(PREFECT_API_URL.value()) or self._prefect.running() is not None
        )

    def _passwords(self) -> list[str]:
        """What must be in the environment before the servers may be reached from elsewhere."""
        return [
            *(() if PREFECT_API_URL.value() else PREFECT_PASSWORDS),
            *(() if self._settings.tracking.server else MLFLOW_PASSWORDS),
        ]

    def _up_mlflow(self) -> None:
        tracking = open_tracking(self._settings)
        started = read_services(self._folder)
        if tracking.artifacts is None or _serves(started.mlflow, self._mlflow_log):
            return
        # Two servers over one SQLite database would lock each other out.
        stop_service(self._mlflow_log)
        start_mlflow_server(
            tracking.uri,
            tracking.artifacts,
            self._folder,
            host=self._settings.services.host,
            register=lambda server: self._register(mlflow=server),
        )

    def _up_worker(self, api_url: str) -> None:
        started = read_services(self._folder)
        told = {"worker_api": api_url, "worker_params": self._params.resolve()}
        if _serves(started.worker, self._worker_log):
            if started.model_dump(include=set(told)) == told:
                return
            _stop(started.worker, self._worker_log)
        drop_missed_runs(datetime.now(UTC))
        start_worker(
            api_url,
            self._params,
            self._folder / "prefect",
            register=lambda server: self._register(worker=server, **told),
        )

    def _register(self, **started: object) -> None:
        before = read_services(self._folder)
        write_services(self._folder, before.model_copy(update=started))

    def _locked(self) -> FileLock:
        return FileLock(self._folder / "services.lock")


def _serves(server: StartedServer | None, log: Path) -> bool:
    """Whether it answers, also if only after a while; if not, it is stopped."""
    if server is None or not server.process.is_alive():
        return False
    try:
        wait_until_it_answers(server.process, f"{server.url}/health", log, _PATIENCE_SECONDS)
    except ServerError:
        server.process.stop()
        return False
    return True


def _stop(server: StartedServer | None, log: Path) -> None:
    if server is not None:
        server.process.stop()
    stop_service(log)


def _state(url: str | None) -> State:
    if url is None:
        return "not running"
    return "running" if answers(f"{url}/health") else "not answering"


def _existing(log: Path) -> str | None:
    return str(log) if log.exists() else None
