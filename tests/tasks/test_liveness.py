"""A process is known again whatever becomes of the clock, the number and the file's version."""

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from stillwatch.flows.servers.processes import StartedServer
from stillwatch.flows.servers.service_register import StartedServices
from stillwatch.tasks.liveness import ProcessIdentity
from stillwatch.tasks.run_owner import PROCESS, is_alive, owner_tags


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def set_clock(patch: pytest.MonkeyPatch, *, by_seconds: float) -> None:
    """Do to psutil what the kernel does when NTP sets the clock: the time of the boot moves."""
    if not psutil.LINUX:
        pytest.skip("psutil adds the time of the boot on Linux only")
    boot_time = psutil.boot_time()
    patch.setattr("psutil._pslinux.boot_time", lambda: boot_time + by_seconds)


def test_a_process_is_the_same_after_the_clock_was_set(
    child: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    process, tag = ProcessIdentity.of(child.pid), owner_tags()[PROCESS]
    before = psutil.Process(child.pid).create_time()
    set_clock(monkeypatch, by_seconds=3600)
    assert psutil.Process(child.pid).create_time() == pytest.approx(before + 3600)
    assert process.is_alive()
    assert ProcessIdentity.of(child.pid) == process
    assert is_alive(tag)
    process.stop()
    assert not process.is_alive()


def test_another_process_with_its_number_is_not_it(child: "subprocess.Popen[bytes]") -> None:
    process = ProcessIdentity.of(child.pid)
    assert not process._replace(started=process.started - 1 if process.boot else 1.0).is_alive()
    assert not process._replace(boot="of another machine").is_alive()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process.is_alive(), "it is dead, though nobody has asked for its exit code yet"
    child.wait()
    assert not process.is_alive()


def test_what_an_earlier_version_wrote_is_understood() -> None:
    started = psutil.Process().create_time()
    earlier = f'{{"mlflow": [[{os.getpid()}, {started}], "http://127.0.0.1:5000"]}}'
    server = StartedServices.model_validate_json(earlier).mlflow
    assert isinstance(server, StartedServer)
    assert server.process.is_alive()
    assert is_alive(f"{os.getpid()} since {started:.0f}")
    assert not is_alive(f"{os.getpid()} since {started - 60:.0f}")
    assert is_alive("unreadable")
