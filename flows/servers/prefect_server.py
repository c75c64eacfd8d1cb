"""The Prefect server that a run reports to: the configured one, else a local one.

Prefect's built-in ephemeral server loses task records when the process exits. A run without a
configured server therefore starts a local one, whose database is in the state folder. The local
server stays until ``stillwatch down``, and every run of the same state folder uses it.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus

import httpx
from prefect import get_client
from prefect.context import refresh_global_settings_context
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, PREFECT_PROFILES_PATH

from stillwatch.errors import ServerError
from stillwatch.flows.servers.network import ensure_protected, is_loopback
from stillwatch.flows.servers.service import RunningService, Service, answers, unless_set
from stillwatch.settings import Settings

PREFERRED_PORT = 4200
PASSWORDS = ("PREFECT_SERVER_API_AUTH_STRING",)
"""Environment variables without which the server listens on loopback only."""
HEARTBEAT_SECONDS = 30
"""Interval of the heartbeats of a run: the shortest that Prefect allows."""
_SERVICES = "PREFECT_SERVER_SERVICES"
_IDLE = {
    # How often the server looks for what is late, expired or dead. By default, every 5 to 20 s,
    # which takes more CPU time than all else that an idle server does.
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT30S",
    f"{_SERVICES}_CANCELLATION_CLEANUP_LOOP_SECONDS": "120",
    f"{_SERVICES}_CLEANUP_RECONCILER_LOOP_SECONDS": "120",
    f"{_SERVICES}_FOREMAN_LOOP_SECONDS": "120",
    f"{_SERVICES}_LATE_RUNS_LOOP_SECONDS": "120",
    f"{_SERVICES}_PAUSE_EXPIRATIONS_LOOP_SECONDS": "120",
    f"{_SERVICES}_REPOSSESSOR_LOOP_SECONDS": "120",
    # Every minute, the scheduler looks at all deployments, not only at recent ones.
    f"{_SERVICES}_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "600",
    # After weeks without power, one missed run of a schedule is made up for, not three.
    f"{_SERVICES}_SCHEDULER_MIN_RUNS": "1",
}


@contextmanager
def prefect_api(settings: Settings) -> Iterator[str]:
    """Yield the URL of a Prefect API that answers, and make this process use it.

    Raises:
        SettingsError: a local server would be reachable without a password.
        ServerError: the server does not answer, cannot be started, asks for another password than
            the environment has, or fails before the block ends.
    """
    url = PREFECT_API_URL.value()
    if not url:
        url = ensure_local_server(settings)
        environment = {"PREFECT_API_URL": url, **_password()}
        advice = f"Its log {local_server(settings).log} may say why: it"
    else:
        ensure_answers()
        environment, advice = {}, "It"
    environment |= unless_set({"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)})
    with _prefect_environment(environment), _server_errors(url, advice):
        _ensure_admitted(url)
        try:
            yield url
        finally:
            # Prefect sends logs from another thread, to the server of the environment.
            if answers(f"{url}/health"):
                APILogHandler().flush()


def ensure_answers() -> None:
    """Raise a ``ServerError`` if a Prefect server is configured and does not answer."""
    url = PREFECT_API_URL.value()
    if url and not answers(f"{url}/health"):
        place = "the environment"
        if "PREFECT_API_URL" not in os.environ:
            place = (
                f"Prefect's settings (its profile in {PREFECT_PROFILES_PATH.value()}, or a .env)"
            )
        raise ServerError(
            f"PREFECT_API_URL={url}: no Prefect server answers there. Start it, or remove "
            f"PREFECT_API_URL from {place} to let stillwatch run a local one."
        )


def local_server(settings: Settings) -> Service:
    """The Prefect server of a state folder, whether or not it runs."""
    return Service(settings.state_dir / "prefect" / "server.log")


def local_api(settings: Settings) -> str | None:
    """URL of the API of the running local server; None if no local server runs."""
    running = local_server(settings).running()
    return None if running is None else f"{running.url}/api"


def ensure_local_server(settings: Settings) -> str:
    """Start the local server unless it runs, and return the URL of its API.

    Raises:
        SettingsError: the server would be reachable without a password.
        ServerError: the server did not start; the message names its log.
    """
    server = local_server(settings)
    with server.exclusive():
        running = server.usable() or _start(server, settings)
    return f"{running.url}/api"


def _start(server: Service, settings: Settings) -> RunningService:
    host = settings.services.host
    ensure_protected(host, PASSWORDS)
    return server.start(
        lambda port: [
            *(sys.executable, "-m", "prefect", "server", "start"),
            *("--host", host, "--port", str(port)),
        ],
        host=host,
        preferred_port=PREFERRED_PORT,
        health_path="/api/health",
        environment=lambda port: {
            "PREFECT_HOME": str(server.log.parent),
            **_database(settings.services.prefect_database),
            # Without it, the pages show what the server at the usual port has, whosever that is;
            # beyond loopback, browsers use whatever name the machine has elsewhere.
            "PREFECT_SERVER_UI_API_URL": (
                f"http://127.0.0.1:{port}/api" if is_loopback(host) else "/api"
            ),
            # By default automations forget after a minute which runs they wait for; a power cut
            # takes longer.
            "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER": "P30D",
            **unless_set(_IDLE),
            # In-memory leases would leak a concurrency slot for good at a server restart.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
                "prefect.server.concurrency.lease_storage.filesystem"
            ),
        },
    )


def _database(url: str | None) -> dict[str, str]:
    if url is None:
        return {}
    driver = url.replace("postgresql://", "postgresql+asyncpg://", 1)
    return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": driver}


@contextmanager
def _server_errors(api_url: str, advice: str) -> Iterator[None]:
    """Turn what Prefect's client raises when its server fails into a sentence.

    Args:
        api_url: of the server.
        advice: beginning of the sentence that says why the server may have failed.
    """
    try:
        yield
    except (httpx.TransportError, PrefectHTTPStatusError, ObjectNotFound) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        if isinstance(error, ObjectNotFound):
            reason = "what answers there now does not know this run"
        raise ServerError(
            f"the Prefect server at {api_url} failed ({reason}). {advice} was stopped, or its disk "
            "is full. Fix this and run again: what was trained is kept and is not trained again."
        ) from error


def _password() -> dict[str, str]:
    """The local server's password for its clients, unless the environment has one for them."""
    server, client = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
    return {client: os.environ[server]} if server in os.environ and client not in os.environ else {}


def _ensure_admitted(api_url: str) -> None:
    try:
        with get_client(sync_client=True) as client:
            client.api_version()
    except PrefectHTTPStatusError as error:
        if error.response.status_code != HTTPStatus.UNAUTHORIZED:
            raise
        raise ServerError(
            f"the Prefect server at {api_url} asks for a password. Set PREFECT_API_AUTH_STRING to "
            "the PREFECT_SERVER_API_AUTH_STRING that it was started with."
        ) from error


@contextmanager
def _prefect_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for child processes and for every thread of this one.

    Prefect's own ``temporary_settings`` reaches neither: not the threads in which a process pool
    forwards its events and logs, and each would start an ephemeral server.
    """
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    refresh_global_settings_context()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        refresh_global_settings_context()
