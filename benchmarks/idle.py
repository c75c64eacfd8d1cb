"""What the services of ``stillwatch up`` cost while nothing happens.

In a new plant without images: ``up``, a pause in which the services finish starting, then the CPU
seconds of each service over ``--minutes``, and the flow runs that were made meanwhile. The target
is at most 2 % of a core for all services together. Prints a table and writes JSON.

    .venv/bin/python -m benchmarks.idle --minutes 10 --out results/idle.json
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.revision import commit, machine
from benchmarks.tables import markdown, origin
from stillwatch.files import write_json
from stillwatch.flows.servers.prefect_server import local_api
from stillwatch.flows.servers.service import SERVICE_VARIABLE
from stillwatch.settings import Settings

_START_SECONDS = 60.0
"""After ``up`` the servers still work through what they do once."""


@dataclass(frozen=True)
class _Usage:
    """What the processes of a service have used."""

    cpu_seconds: float = 0.0
    """User and system, with those of their children that have ended."""
    megabytes: float = 0.0
    """Resident memory; pages that processes share count for each."""

    def __add__(self, other: "_Usage") -> "_Usage":
        return _Usage(self.cpu_seconds + other.cpu_seconds, self.megabytes + other.megabytes)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stillwatch-idle-") as folder:
        plant = Path(folder) / "plant"
        _stillwatch("init", str(plant), cwd=Path(folder))
        _stillwatch("up", cwd=plant)
        try:
            measured = _measure(plant / ".stillwatch", 60 * given.minutes)
        finally:
            _stillwatch("down", cwd=plant)
    result: dict[str, Any] = {
        "commit": commit(),
        "machine": machine(torch.device("cpu")),
        "minutes": given.minutes,
        **measured,
    }
    write_json(given.out, result)
    print(origin(f"python -m benchmarks.idle --minutes {given.minutes:g}", [result]))
    head = ["service", "CPU seconds", "% of a core", "MB"]
    print("\n".join(["", *markdown(head, _rows(result))]))
    print(f"\n{result['flow_runs']} flow runs in {given.minutes:g} minutes")


def _measure(state_dir: Path, seconds: float) -> dict[str, Any]:
    time.sleep(_START_SECONDS)
    before, runs_before = _usage(state_dir), _flow_runs(state_dir)
    time.sleep(seconds)
    after = _usage(state_dir)
    return {
        "services": {
            name: {
                "cpu_seconds": used.cpu_seconds - before[name].cpu_seconds,
                "megabytes": used.megabytes,
            }
            for name, used in sorted(after.items())
        },
        "flow_runs": _flow_runs(state_dir) - runs_before,
    }


def _usage(state_dir: Path) -> Mapping[str, _Usage]:
    """Service -> what its processes have used since their start."""
    found: defaultdict[str, _Usage] = defaultdict(_Usage)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            log = Path(process.environ().get(SERVICE_VARIABLE, ""))
            if log.is_relative_to(state_dir):
                resident = process.memory_info().rss / 1e6
                found[log.stem] += _Usage(sum(process.cpu_times()[:4]), resident)
    return found


def _flow_runs(state_dir: Path) -> int:
    """How many flow runs have started."""
    url = local_api(Settings(state_dir=state_dir))
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        return sum(run.start_time is not None for run in client.read_flow_runs())


def _rows(result: Mapping[str, Any]) -> list[list[str]]:
    seconds = 60 * result["minutes"]
    services = result["services"]
    all_of_them = {
        key: sum(used[key] for used in services.values()) for key in ("cpu_seconds", "megabytes")
    }
    return [
        [
            name,
            f"{used['cpu_seconds']:.1f}",
            f"{100 * used['cpu_seconds'] / seconds:.2f}",
            f"{used['megabytes']:.0f}",
        ]
        for name, used in {**services, "all": all_of_them}.items()
    ]


def _stillwatch(*arguments: str, cwd: Path) -> None:
    program = [sys.executable, "-c", "from stillwatch.flows.cli import main; main()"]
    subprocess.run([*program, *arguments], cwd=cwd, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
