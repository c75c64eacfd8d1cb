"""Servers on loopback, with a web server that starts at once."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.processes import StartedServer, answers, start_server
from stillwatch.errors import ServerError


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
    with pytest.raises(ServerError, match=str(log)):
        started(lambda _: [sys.executable, "-c", "print('no licence')"], tmp_path)
    assert "no licence" in log.read_text(encoding="utf-8")
