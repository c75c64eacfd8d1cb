"""``stillwatch serve`` in a process of its own, and one of its clients."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.flows.conftest import Plant
from tests.flows.http_client import Reply, ask
from tests.flows.waiting import until


@dataclass(frozen=True)
class Service:
    process: "subprocess.Popen[str]"
    url: str
    log: Path
    category: str
    """The only one that it serves."""

    def ask(self, path: str, body: bytes | None = None, kind: str = "image/png") -> Reply:
        return ask(self.url, path, body, kind)

    def inspect(self, file: Path, query: str = "") -> dict[str, Any]:
        reply = self.ask(f"/inspect/{self.category}{query}", file.read_bytes())
        assert reply.status == 200, reply.body
        answer: dict[str, Any] = reply.json
        return answer

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.ask("/ready").json["categories"][self.category]
        return state

    def figure(self, name: str) -> float:
        """A sample of the metrics page by its whole name."""
        page = self.ask("/metrics").body.decode()
        (line,) = (line for line in page.splitlines() if line.startswith(f"{name} "))
        return float(line.rpartition(" ")[2])


@contextmanager
def serving(plant: Plant, category: str) -> Iterator[Service]:
    """The service of a plant with one category, once it answers; killed in the end."""
    log = plant.folder / "service.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            plant.command("serve", "--port", "0"),
            cwd=plant.folder,
            env=plant.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        until(lambda: "listening on" in log.read_text() or process.poll() is not None)
        said = log.read_text()
        assert process.poll() is None, said
        url = said.partition("listening on ")[2].partition(",")[0]
        service = Service(process, url, log, category)
        assert service.ask("/health").status == 200
        until(lambda: service.ask("/ready").status == 200)
        yield service
    finally:
        process.kill()
        process.wait()
