"""The Prefect server that a run reports to: the one that is configured, else a shared local one.

Prefect's built-in ephemeral server loses task records when the process exits, so a run without a
configured server gets a real one, whose database stays in the state folder. Runs share it: each
registers in a lock-protected file, dead registrants are ignored, and the last one out stops the
server that stillwatch started, unless it is kept.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ValidationError

from stillwatch.errors import ServerError
from stillwatch.files import storage_errors, write_json
from stillwatch.flows.servers.network import ensure_protected, is_loopback
from stillwatch.flows.servers.processes import (
    StartedServer,
    answers,
    start_server,
    stop_service,
    wait_until_it_answers,
)
from stillwatch.settings import ServicesSettings, Settings
from stillwatch.tasks.liveness import ProcessIdentity

PREFERRED_PORT = 4200
PASSWORDS = ("PREFECT_SERVER_API_AUTH_STRING",)
"""Environment variables without which it listens on loopback only."""
HEARTBEAT_SECONDS = 30
"""How often a run says that it lives: the shortest that Prefect allows."""


@contextmanager
def prefect_api(settings: Settings) -> Iterator[str]:
    """Yield the URL of a Prefect API that answers, and make this process use it.

    Args:
        settings: the local server keeps its files under ``prefect/`` of their state folder.

    Raises:
        SettingsError: a local server would be reachable without a password.
        ServerError: the configured server does not answer, a local one cannot be started, either
            asks for another password than the environment has, or fails before the block ends.
    """
    from prefect.logging.handlers import APILogHandler
    from prefect.settings import PREFECT_API_URL

    configured = PREFECT_API_URL.value()
    if configured:
        if not answers(f"{configured}/health"):
            raise ServerError(
                f"PREFECT_API_URL={configured}: no Prefect server answers there. Start it, or "
                "unset PREFECT_API_URL to let stillwatch run a local one."
            )
        with _prefect_environment(**_heartbeat()), _server_errors(configured, "It"):
            _ensure_admitted(configured)
            yield configured
        return
    server = LocalPrefectServer(settings.state_dir / "prefect", settings.services)
    with (
        server.joined() as url,
        _prefect_environment(PREFECT_API_URL=url, **_password(), **_heartbeat()),
        _server_errors(url, f"Its log {server.log} may say why: it"),
    ):
        _ensure_admitted(url)
        try:
            yield url
        finally:
            # Prefect sends logs from a thread of its own; the server may stop right after this.
            if answers(f"{url}/health"):
                APILogHandler().flush()


@contextmanager
def _server_errors(api_url: str, server: str) -> Iterator[None]:
    """Turn what Prefect's client raises when its server fails into a sentence.

    Args:
        api_url: of the server.
        server: begins the sentence that says what may have become of it.
    """
    import httpx
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

    try:
        yield
    except (httpx.TransportError, PrefectHTTPStatusError, ObjectNotFound) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        if isinstance(error, ObjectNotFound):
            reason = "what answers there now does not know this run"
        raise ServerError(
            f"the Prefect server at {api_url} failed ({reason}). {server} was stopped, or its disk "
            "is full. Mend that and run again: what was trained is kept and is not trained again."
        ) from error


def _password() -> dict[str, str]:
    """The local server's password, for its clients, unless they have been told one."""
    server, client = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
    return {client: os.environ[server]} if server in os.environ and client not in os.environ else {}


def _heartbeat() -> dict[str, str]:
    """How often runs of this process say that they live, unless it has been told."""
    name = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
    return {} if name in os.environ else {name: str(HEARTBEAT_SECONDS)}


def _ensure_admitted(api_url: str) -> None:
    from prefect import get_client
    from prefect.exceptions import PrefectHTTPStatusError

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
def _prefect_environment(**values: str) -> Iterator[None]:
    """Set variables for child processes and for every thread of this one.

    Prefect's own ``temporary_settings`` reaches neither: not the threads in which a process pool
    forwards its events and logs, and each would start an ephemeral server.
    """
    from prefect.context import refresh_global_settings_context

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


class _Register(BaseModel):
    """The server that runs, and the processes that use it."""

    url: str
    server: ProcessIdentity
    registrants: list[ProcessIdentity]
    kept: bool = False
    """Stays when nobody uses it."""

    def living(self) -> "_Register":
        alive = [process for process in self.registrants if process.is_alive()]
        return self.model_copy(update={"registrants": alive})


class LocalPrefectServer:
    """A Prefect server of this machine that several processes share.

    Args:
        folder: its log, lock and register, and its database unless the settings name one.
        settings: where it listens, and its database.
    """

    def __init__(self, folder: Path, settings: ServicesSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._register_file = folder / "server.json"
        self.log = folder / "server.log"

    def keep(self) -> None:
        """Let the running server stay, even when nobody uses it, until it is released."""
        with self._locked():
            register = self._read()
            if register is not None:
                self._write(register.model_copy(update={"kept": True}))

    def release(self) -> None:
        """Stop the server as soon as nobody uses it, now or by the last one out."""
        with self._locked():
            register = self._read()
            if register is None:
                stop_service(self.log)
            else:
                self._settle(register.model_copy(update={"kept": False}).living())

    def running(self) -> str | None:
        """URL of the API of the server that runs; None if there is none."""
        register = self._read()
        return register.url if register is not None and register.server.is_alive() else None

    @contextmanager
    def joined(self) -> Iterator[str]:
        """Yield the API's URL while this process is registered; the last one out stops it.

        Raises:
            SettingsError: it would be reachable without a password.
            ServerError: the server did not start; the message names its log.
            StorageError: the folder cannot be written to.
        """
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        me = ProcessIdentity.of(os.getpid())
        with self._locked():
            register = self._usable()
            register.registrants.append(me)
            self._write(register)
        try:
            yield register.url
        finally:
            self._leave(me)

    def _leave(self, me: ProcessIdentity) -> None:
        with self._locked():
            register = self._read()
            if register is None:
                return
            register.registrants.remove(me)
            self._settle(register.living())

    def _settle(self, register: _Register) -> None:
        """Keep the server or stop it."""
        if register.registrants or register.kept:
            self._write(register)
        else:
            register.server.stop()
            stop_service(self.log)
            self._register_file.unlink()

    def _usable(self) -> _Register:
        register = self._read()
        if register is None:
            return self._start([], kept=False)
        register = register.living()
        if register.server.is_alive():
            try:
                wait_until_it_answers(register.server, f"{register.url}/health", self.log)
            except ServerError:
                register.server.stop()
            else:
                return register
        return self._start(register.registrants, kept=register.kept)

    def _start(self, registrants: list[ProcessIdentity], *, kept: bool) -> _Register:
        host = self._settings.host
        ensure_protected(host, PASSWORDS)
        # Two servers over one SQLite database would lock each other out.
        stop_service(self.log)

        def registered(server: StartedServer) -> _Register:
            return _Register(
                url=f"{server.url}/api",
                server=server.process,
                registrants=registrants,
                kept=kept,
            )

        server = start_server(
            lambda port: [
                *(sys.executable, "-m", "prefect", "server", "start"),
                *("--host", host, "--port", str(port)),
            ],
            host=host,
            preferred_port=PREFERRED_PORT,
            health_path="/api/health",
            environment=lambda port: {
                "PREFECT_HOME": str(self._folder),
                **self._database(),
                # Else the pages show what the server at the usual port has, whosever it is; beyond
                # loopback they are asked for under whatever name the machine has elsewhere.
                "PREFECT_SERVER_UI_API_URL": (
                    f"http://127.0.0.1:{port}/api" if is_loopback(host) else "/api"
                ),
                # By default it forgets after a minute whom it waits for; a power cut takes longer.
                "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER": "P30D",
                # In-memory leases would leak a concurrency slot for good at a server restart.
                "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
                    "prefect.server.concurrency.lease_storage.filesystem"
                ),
            },
            log=self.log,
            register=lambda server: self._write(registered(server)),
        )
        return registered(server)

    def _database(self) -> dict[str, str]:
        url = self._settings.prefect_database
        if url is None:
            return {}
        return {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": url.replace(
                "postgresql://", "postgresql+asyncpg://", 1
            )
        }

    def _read(self) -> _Register | None:
        try:
            return _Register.model_validate_json(self._register_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValidationError):
            return None

    def _write(self, register: _Register) -> None:
        write_json(self._register_file, json.loads(register.model_dump_json()))

    def _locked(self) -> FileLock:
        return FileLock(self._folder / "server.lock")
