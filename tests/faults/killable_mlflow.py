"""An MLflow server over the plant's own store that can be killed and started again."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.moments import kill_family
from tests.flows.conftest import Plant

from stillwatch.flows.servers.service import Service


class KillableMlflow:
    """Every time at the same address."""

    def __init__(self, plant: Plant) -> None:
        self._folder = plant.state / "mlflow"
        self._folder.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        started = Service(self._folder / "server.log").start(
            lambda port: [
                *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"),
                *("--artifacts-destination", str(self._folder / "artifacts")),
                *("--port", str(port)),
            ],
            preferred_port=self._port,
            health_path="/health",
            environment=lambda _port: {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
        self._pid = started.pid
        assert started.url == self.url

    def kill(self) -> None:
        kill_family(self._pid)


@contextmanager
def killable_mlflow(plant: Plant) -> Iterator[KillableMlflow]:
    server = KillableMlflow(plant)
    try:
        yield server
    finally:
        server.kill()
