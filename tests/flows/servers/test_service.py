"""Services on loopback, with a web server that starts at once."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from stillwatch.errors import ServerError, SettingsError
from stillwatch.flows.servers.service import RunningService, Service, answers
from stillwatch.flows.servers.up import Services
from stillwatch.flows.servers.worker import trigger_service
from stillwatch.settings import ServicesSettings, Settings


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "folder" / "server.log")
    yield service
    service.stop()


def any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def web_server(port: int) -> list[str]:
    return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]


def start(
    service: Service, command: Callable[[int], list[str]] = web_server, port: int | None = None
) -> RunningService:
    return service.start(
        command,
        preferred_port=any_port() if port is None else port,
        health_path="/",
        environment=lambda _port: {},
        settings={"params": "params.yaml"},
    )


def test_a_service_answers_on_the_preferred_port_until_it_is_stopped(service: Service) -> None:
    assert service.running() is None
    port = any_port()
    running = start(service, port=port)
    assert running.url == f"http://127.0.0.1:{port}"
    assert answers(running.url)
    again = Service(service.log)
    assert again.running() == again.usable() == running
    assert running.settings == {"params": "params.yaml"}
    again.stop()
    assert not answers(running.url)
    assert service.running() is None


def test_up_in_the_foreground_leaves_what_ran_before(tmp_path: Path) -> None:
    """Here it ends at once, since the passwords are missing."""
    reachable = ServicesSettings(host="0.0.0.0")  # noqa: S104
    settings = Settings(state_dir=tmp_path, services=reachable)
    trigger = trigger_service(tmp_path)
    running = start(trigger)
    try:
        with pytest.raises(SettingsError, match="in the environment"):
            Services(settings, tmp_path / "params.yaml").run(lambda: None)
        assert trigger.running() == running
    finally:
        trigger.stop()


def test_a_service_that_is_killed_is_known_to_be_dead(service: Service) -> None:
    running = start(service)
    os.kill(running.pid, signal.SIGKILL)
    os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
    assert service.running() is None
    assert start(service).pid != running.pid


@pytest.mark.costly
def test_a_service_that_hangs_is_not_usable(service: Service) -> None:
    running = start(service)
    os.kill(running.pid, signal.SIGSTOP)
    assert service.running() == running
    assert service.usable(seconds=0) is None
    os.kill(running.pid, signal.SIGCONT)  # so that it ends at once when it is asked to


@pytest.mark.costly
def test_a_port_that_is_taken_at_the_last_moment_is_left_to_its_taker(service: Service) -> None:
    port = any_port()
    with socket.socket() as rival:

        def command(asked: int) -> list[str]:
            if asked == port:
                rival.bind(("127.0.0.1", port))
                rival.listen()
            return web_server(asked)

        running = start(service, command, port)
        assert running.url != f"http://127.0.0.1:{port}"
        assert answers(running.url)


def test_a_service_that_ends_at_once_names_its_log(service: Service) -> None:
    with pytest.raises(ServerError, match=f"has ended: its log {service.log} says why"):
        start(service, lambda _: [sys.executable, "-c", "print('no licence')"])
    assert "no licence" in service.log.read_text(encoding="utf-8")
    assert service.running() is None


@pytest.mark.costly
def test_every_process_of_a_service_is_stopped_whichever_has_died(
    service: Service, tmp_path: Path
) -> None:
    """One of them is an orphan, another one starts another when it is asked to end."""
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
    running = start(service, lambda port: [sys.executable, "-c", code, str(port)])
    other = Service(tmp_path / "other" / "server.log")
    elsewhere = start(other)
    os.kill(running.pid, signal.SIGKILL)
    os.waitpid(running.pid, 0)
    assert service.running() is None, "its children do not hold its lock"
    assert len(processes_of(service)) == 2
    running = start(service, lambda port: [sys.executable, "-c", code, str(port)])
    assert len(processes_of(service)) == 3, "what was left of it is stopped before"
    service.stop()
    assert processes_of(service) == []
    assert answers(elsewhere.url)
    other.stop()
    assert not answers(elsewhere.url)


def processes_of(service: Service) -> list[psutil.Process]:
    return [one for one in psutil.process_iter() if is_of(one, service)]


def is_of(process: psutil.Process, service: Service) -> bool:
    with suppress(psutil.Error):
        return str(service.log) in process.environ().values()
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
