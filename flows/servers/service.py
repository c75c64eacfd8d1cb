"""Starting, finding and stopping a server or worker that runs in the background of this machine."""

import http.client
import os
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
from filelock import FileLock
from pydantic import BaseModel, ValidationError

from stillwatch.errors import ServerError
from stillwatch.files import storage_errors, write_json
from stillwatch.flows.servers.network import free_port, is_free, reachable_host
from stillwatch.tasks.liveness import is_held, lock_file

START_SECONDS = 120.0

SERVICE_VARIABLE = "STILLWATCH_SERVICE"
"""Names the log of a service to its process and to all that inherit the process's environment."""
_MAX_PASSES = 4
_LOCK_DESCRIPTOR = 3


class RunningService(BaseModel):
    """The process of a service and its address, as ``NAME.json`` beside the log holds them."""

    pid: int
    url: str
    """``http://HOST:PORT``, as this machine reaches it."""
    health_url: str
    """Answers with status 200 when the service is ready."""
    settings: dict[str, str] = {}
    """What the service was started with and cannot change."""


class Service:
    """A program that runs in the background until it is stopped.

    The program inherits the only descriptor of the locked file ``NAME.lock``, so the program is
    alive while the lock is taken. The children of the program do not inherit the descriptor, since
    Python's ``subprocess`` closes all descriptors that it is not told to keep.

    Args:
        log: ``NAME.log``, to which the output of the program is appended.
    """

    def __init__(self, log: Path) -> None:
        self.log = log.resolve()
        self._record = self.log.with_suffix(".json")
        self._lock = self.log.with_suffix(".lock")
        # One lock for all objects of the same service, so that a thread may take it again.
        self._exclusive = FileLock(self.log.with_suffix(".start.lock"), is_singleton=True)

    def exclusive(self) -> FileLock:
        """A lock to hold while the service is looked for, started or stopped."""
        with storage_errors(self.log.parent):
            self.log.parent.mkdir(parents=True, exist_ok=True)
        return self._exclusive

    def running(self) -> RunningService | None:
        """The service if its process is alive, whether or not it answers."""
        if not is_held(self._lock):
            return None
        try:
            return RunningService.model_validate_json(self._record.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValidationError):
            return None

    def usable(self, seconds: float = START_SECONDS) -> RunningService | None:
        """The running service, once it answers; None if it does not answer within ``seconds``."""
        running = self.running()
        if running is not None:
            with suppress(ServerError):
                self._wait_for(running, seconds)
                return running
        return None

    def start(
        self,
        command: Callable[[int], list[str]],
        *,
        host: str = "127.0.0.1",
        preferred_port: int,
        health_path: str,
        environment: Callable[[int], Mapping[str, str]],
        settings: Mapping[str, str] | None = None,
    ) -> RunningService:
        """Start the program in a session of its own and wait until it answers.

        Stops what is left of an earlier start. Starts the program again on another port if another
        program takes the port first.

        Args:
            command: the program's path and its arguments, for a port.
            host: where it listens.
            preferred_port: taken if it is free, so that a bookmark keeps working.
            health_path: path that answers with status 200 when the program is ready.
            environment: what is added to this process's environment, for a port.
            settings: kept as ``RunningService.settings``.

        Raises:
            ServerError: the program ended, or did not answer within ``START_SECONDS``; nothing is
                left running.
        """
        with self.exclusive():
            while True:
                self.stop()
                port = free_port(host, preferred_port)
                url = f"http://{reachable_host(host)}:{port}"
                running = RunningService(
                    pid=self._spawn(command(port), environment(port)),
                    url=url,
                    health_url=f"{url}{health_path}",
                    settings=dict(settings or {}),
                )
                try:
                    # Now, so that it can be found even if this process ends before it answers.
                    write_json(self._record, running.model_dump(mode="json"))
                    self._wait_for(running, START_SECONDS)
                except BaseException as error:
                    self.stop()
                    if isinstance(error, ServerError) and not is_free(host, port):
                        continue
                    raise
                return running

    def stop(self) -> None:
        """Stop the program and every process that it started, also if the program itself has died.

        Asks the program to end; kills what has not ended in 10 s and what was started meanwhile.
        """
        if not self.log.parent.exists():
            return
        with self._exclusive:
            for _ in range(_MAX_PASSES):
                family = list(self._processes())
                if not family:
                    break
                _end(family)
            self._record.unlink(missing_ok=True)

    def _spawn(self, command: list[str], environment: Mapping[str, str]) -> int:
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        lock = lock_file(self._lock, wait=True)
        assert lock is not None  # noqa: S101 (it was waited for)
        try:
            # Not subprocess.Popen: the program may outlive both the object and this process.
            return os.posix_spawn(
                command[0],
                command,
                os.environ | dict(environment) | {SERVICE_VARIABLE: str(self.log)},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, lock, _LOCK_DESCRIPTOR),
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(self.log), append, 0o644),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
            )
        finally:
            os.close(lock)

    def _wait_for(self, running: RunningService, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not (answers(running.health_url) and self._listens(running.url)):
            ended = not is_held(self._lock)
            if ended or time.monotonic() > deadline:
                reason = "has ended" if ended else f"did not answer within {seconds:.0f} s"
                raise ServerError(
                    f"the server at {running.health_url} {reason}: its log {self.log} says why. "
                    "Fix this and try again."
                )
            time.sleep(0.2)

    def _listens(self, url: str) -> bool:
        """Whether a process of the service, not another program, listens on the port of ``url``."""
        port = int(url.rpartition(":")[2])
        for process in self._processes():
            with suppress(psutil.Error):
                for connection in process.net_connections("inet"):
                    listens = connection.status == psutil.CONN_LISTEN
                    if listens and connection.laddr.port == port:
                        return True
        return False

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                service = process.environ().get(SERVICE_VARIABLE)
                if service == str(self.log) and process.pid != os.getpid():
                    yield process


def unless_set(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that this process does not have, so that a user can decide."""
    return {name: value for name, value in variables.items() if name not in os.environ}


def _end(family: list[psutil.Process]) -> None:
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


def answers(health_url: str) -> bool:
    """Whether a GET of ``health_url`` gives status 200; not if it is no URL or no web server's."""
    try:
        with urllib.request.urlopen(health_url, timeout=5) as reply:  # noqa: S310
            return bool(reply.status == 200)
    except (OSError, http.client.HTTPException, ValueError):
        return False
