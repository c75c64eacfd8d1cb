"""Server processes: starting them and waiting until they answer."""

import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from flows.exposure import reachable_host
from stillwatch.errors import ServerError
from tasks.process_identity import ProcessIdentity

START_SECONDS = 120.0


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

    Raises:
        ServerError: it ended, or did not answer within ``START_SECONDS``; nothing is left running.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    while True:
        port = _free_port(host, preferred_port)
        url = f"http://{reachable_host(host)}:{port}"
        process = _spawn(command(port), environment(port), log)
        try:
            wait_until_it_answers(process, f"{url}{health_path}", log)
        except BaseException as error:
            process.stop()
            if isinstance(error, ServerError) and not _is_free(host, port):
                continue
            raise
        return StartedServer(process, url)


def _spawn(command: list[str], environment: Mapping[str, str], log: Path) -> ProcessIdentity:
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    # Not subprocess.Popen: the server may outlive both the object and this process.
    pid = os.posix_spawn(
        command[0],
        command,
        os.environ | dict(environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return ProcessIdentity.of(pid)


def wait_until_it_answers(server: ProcessIdentity, health_url: str, log: Path) -> None:
    """Wait for a server that is starting.

    Raises:
        ServerError: it ended, or did not answer within ``START_SECONDS``.
    """
    deadline = time.monotonic() + START_SECONDS
    port = urlsplit(health_url).port
    while not (server.listens_on(port) and answers(health_url)):
        if not server.is_alive() or time.monotonic() > deadline:
            raise ServerError(
                f"the server at {health_url} did not start within {START_SECONDS:.0f} s: its log "
                f"{log} says why. Mend that and try again."
            )
        time.sleep(0.2)


def answers(health_url: str) -> bool:
    """Whether a GET of ``health_url`` gives status 200."""
    try:
        with urllib.request.urlopen(health_url, timeout=5) as reply:  # noqa: S310
            return bool(reply.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
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
