"""Servers on loopback, with a web server that starts at once."""

import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from stillwatch.errors import ServerError
from stillwatch.flows.servers.processes import StartedServer, answers, start_server, stop_service
from stillwatch.tasks.liveness import ProcessIdentity


def any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def web_server(port: int) -> list[str]:
    return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]


def started(
    command: Callable[[int], list[str]], folder: Path, port: int | None = None
) -> StartedServer:
    return start_server(
        command,
        preferred_port=any_port() if port is None else port,
        health_path="/",
        environment=lambda _port: {},
        log=folder / "server.log",
    )


def test_a_server_answers_on_the_preferred_port_until_it_is_stopped(tmp_path: Path) -> None:
    port = any_port()
    server = started(web_server, tmp_path, port)
    assert server.url == f"http://127.0.0.1:{port}"
    assert answers(server.url)
    server.process.stop()
    assert not answers(server.url)


def test_a_port_that_is_taken_at_the_last_moment_is_left_to_its_taker(tmp_path: Path) -> None:
    port = any_port()
    with socket.socket() as rival:

        def command(asked: int) -> list[str]:
            if asked == port:
                rival.bind(("127.0.0.1", port))
                rival.listen()
            return web_server(asked)

        server = started(command, tmp_path, port)
        assert server.url != f"http://127.0.0.1:{port}"
        assert answers(server.url)
        server.process.stop()


def test_a_server_that_ends_at_once_names_its_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    told: list[StartedServer] = []
    with pytest.raises(ServerError, match=str(log)):
        start_server(
            lambda _: [sys.executable, "-c", "print('no licence')"],
            preferred_port=any_port(),
            health_path="/",
            environment=lambda _port: {},
            log=log,
            register=told.append,
        )
    assert "no licence" in log.read_text(encoding="utf-8")
    assert len(told) == 1, "it was known before it answered"


def test_what_came_of_a_service_is_stopped_whoever_has_died(tmp_path: Path) -> None:
    """One of its processes is an orphan, another one begins another when it is asked to end."""
    begin = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], **alone)"
    code = f"""
import signal, subprocess, sys, time
alone = dict(start_new_session=True)
def begin_another(*_):
    {begin}
    sys.exit()
signal.signal(signal.SIGTERM, begin_another)
{begin}
subprocess.run([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", sys.argv[1]])
"""
    server = started(lambda port: [sys.executable, "-c", code, str(port)], tmp_path)
    parent = psutil.Process(server.process.pid)
    orphan, web = sorted(
        (ProcessIdentity.of(child.pid) for child in parent.children()), key=lambda one: one.started
    )
    other = started(web_server, tmp_path / "other")
    psutil.Process(web.pid).terminate()
    parent.wait()
    assert orphan.is_alive()

    server = started(lambda port: [sys.executable, "-c", code, str(port)], tmp_path)
    stop_service(tmp_path / "server.log")
    assert not orphan.is_alive()
    assert [one for one in psutil.process_iter() if is_of(one, tmp_path / "server.log")] == []
    assert answers(other.url)
    stop_service(tmp_path / "other" / "server.log")
    assert not answers(other.url)


def is_of(process: psutil.Process, log: Path) -> bool:
    with suppress(psutil.Error):
        return str(log) in process.environ().values()
    return False


@pytest.mark.parametrize("reply", [b"SSH-2.0-OpenSSH_9.2\r\n", b""])
def test_another_program_on_its_port_does_not_answer(reply: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor() as threads:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(reply)

        threads.submit(serve)
        assert not answers(f"http://127.0.0.1:{listening.getsockname()[1]}/health")


@pytest.mark.parametrize("url", ["plant:4200/api", "http://plant:four/api", "4200"])
def test_what_is_no_url_does_not_answer(url: str) -> None:
    assert not answers(url)
