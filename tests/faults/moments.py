"""The moment of a fault, and the processes that it hits."""

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
from tests.flows.conftest import Plant
from tests.flows.waiting import runs


class Started:
    """``stillwatch`` in a process of its own, which a fault is to hit."""

    def __init__(self, plant: Plant, *arguments: str) -> None:
        self._log = plant.folder / "home" / "started.log"
        with self._log.open("w") as output:
            self._process = subprocess.Popen(
                plant.command(*arguments),
                cwd=plant.folder,
                env=plant.environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        """What it has printed, as one line."""
        return " ".join(self._log.read_text(encoding="utf-8").split())

    def wait_until(self, happens: Callable[[], bool]) -> None:
        """Wait for the moment of a fault; fail if the process ends before."""

        def ended_or_happens() -> bool:
            ended = self._process.poll() is not None
            return happens() or ended

        wait_until(ended_or_happens)
        assert self._process.poll() is None, f"it ended before the fault: {self.said}"

    def kill(self) -> None:
        """Kill this process alone, as the system does when memory runs out."""
        self._process.kill()
        self._process.wait()

    def exit_code(self) -> int:
        """Wait for its end."""
        return self._process.wait()


def wait_until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not happens():
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.01)


def kill_family(pid: int) -> None:
    """Kill a server with its children."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
        for process in family:
            process.kill()
        wait_until(lambda: not any(map(runs, family)))


def trainings_of(plant: Plant) -> list[psutil.Process]:
    """The processes that train for this plant."""
    return processes_of(plant.folder, "stillwatch.training.child")


def processes_of(folder: Path, module: str | None = None) -> list[psutil.Process]:
    """The living processes whose home is in this folder, as that of all of a plant is."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, KeyError):
            at_home = Path(process.environ()["HOME"]).is_relative_to(folder)
            if at_home and (module is None or module in process.cmdline()):
                found.append(process)
    return found
