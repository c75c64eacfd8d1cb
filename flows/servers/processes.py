"""Server processes: starting, waiting for, stopping."""

import http.client
import os
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil

from stillwatch.errors import ServerError
from stillwatch.flows.servers.network import reachable_host
from stillwatch.tasks.liveness import ProcessIdentity

START_SECONDS = 120.0

_SERVICE_VARIABLE = "STILLWATCH_SERVICE"
"""Names its log to a server and, since they inherit it, to all processes that come of it."""
_MOST_PASSES = 4


class StartedServer(NamedTuple):
    """A server that answers."""

    process: ProcessIdentity
    url: str
    """``http://HOST:PORT``, as this machine reaches it."""


def start_server(
    command: Callable[[int], list[str]],
    *,
    host: str = "127.0.0.1",
    preferred_port: int,
    health_path: str,
    environment: Callable[[int], Mapping[str, str]],
    log: Path,
    register: Callable[[StartedServer], object] = lambda _server: None,
) -> StartedServer:
    """Start a server in a session of its own and wait until it answers.

    Another program may take the port before the server does; then it is started on another one.

    Args:
        command: the program's path and its arguments, for a port.
        host: where it listens.
        preferred_port: taken if it is free, so that a bookmark keeps working.
        health_path: path that answers with status 200 when the server is ready.
        environment: what is added to this process's environment, for a port.
        log: both output streams are appended to it.
        register: is told of the process before it answers, so that it is known even if this
            process ends meanwhile.

    Raises:
        ServerError: it ended, or did not answer within ``START_SECONDS``; nothing is left running.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    while True:
        port = _free_port(host, preferred_port)
        url = f"http://{reachable_host(host)}:{port}"
        process = _spawn(command(port), environment(port), log)
        server = StartedServer(process, url)
        try:
            register(server)
            wait_until_it_answers(process, f"{url}{health_path}", log)
        except BaseException as error:
            process.stop()
            if isinstance(error, ServerError) and not _is_free(host, port):
                continue
            raise
        return server


def _spawn(command: list[str], environment: Mapping[str, str], log: Path) -> ProcessIdentity:
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    # Not subprocess.Popen: the server may outlive both the object and this process.
    pid = os.posix_spawn(
        command[0],
        command,
        os.environ | dict(environment) | {_SERVICE_VARIABLE: str(log.resolve())},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return ProcessIdentity.of(pid)


def stop_service(log: Path) -> None:
    """End every process that has come of a service and still runs, also if the service has died.

    The service is asked to end; what has not ended in 10 s is killed, and so is what was begun
    meanwhile.

    Args:
        log: of the service.
    """
    for _ in range(_MOST_PASSES):
        family = list(_processes_of(log))
        if not family:
            return
        pids = {process.pid for process in family}
        for process in family:
            with suppress(psutil.NoSuchProcess):
                if process.ppid() not in pids:
                    process.terminate()
        _, survivors = psutil.wait_procs(family, timeout=10)
        for process in survivors:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(survivors, timeout=5)


def _processes_of(log: Path) -> Iterator[psutil.Process]:
    service = str(log.resolve())
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(_SERVICE_VARIABLE) == service and process.pid != os.getpid():
                yield process


def wait_until_it_answers(
    server: ProcessIdentity, health_url: str, log: Path, seconds: float = START_SECONDS
) -> None:
    """Wait for a server that is starting, or that may be short of time.

    Raises:
        ServerError: it ended, or did not answer within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    port = urlsplit(health_url).port
    while not (server.listens_on(port) and answers(health_url)):
        if not server.is_alive() or time.monotonic() > deadline:
            raise ServerError(
                f"the server at {health_url} did not answer within {seconds:.0f} s: its log "
                f"{log} says why. Mend that and try again."
            )
        time.sleep(0.2)


def answers(health_url: str) -> bool:
    """Whether a GET of ``health_url`` gives status 200; not if it is no URL or no web server's."""
    try:
        with urllib.request.urlopen(health_url, timeout=5) as reply:  # noqa: S310
            return bool(reply.status == 200)
    except (OSError, http.client.HTTPException, ValueError):
        return False


def _free_port(host: str, preferred: int) -> int:
    if _is_free(host, preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
