"""The night: one flow run, a task for every category and detector, and what grows on the way."""

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from benchmarks.scaling_tools import train_nothing
from stillwatch.settings import Settings
from stillwatch.tasks.tracking.client import open_tracking

DETECTORS = 5
ROWS = 10
"""Of the table of a night."""


def night(
    settings: Settings, stores: Settings, mlflow_server: int, categories: int, workers: int
) -> list[dict[str, float]]:
    """Train nothing for every category and detector.

    Args:
        settings: whose MLflow the tasks report to.
        stores: which name the databases.
        mlflow_server: number of its process.
        categories: five tasks each.
        workers: tasks at a time.

    Returns:
        A row for each tenth of the tasks: how many are done, tasks per second since the row before,
        resident megabytes of the processes, megabytes of the databases.
    """
    register = json.loads((stores.state_dir / "prefect" / "server.json").read_bytes())
    servers = {"Prefect server": register["pid"], "MLflow server": mlflow_server}
    watch = _Watch(stores, servers, every=max(1, categories * DETECTORS // ROWS))
    _night(settings, watch, categories, workers)
    return watch.rows


class _Watch:
    """Counts tasks, and looks at everything after each tenth of them."""

    def __init__(self, stores: Settings, servers: Mapping[str, int], every: int) -> None:
        self.rows: list[dict[str, float]] = []
        self._stores, self._servers, self._every = stores, servers, every
        self._lock, self._done, self._since = threading.Lock(), 0, time.perf_counter()

    def count(self) -> None:
        with self._lock:
            self._done += 1
            if self._done % self._every == 0:
                now = time.perf_counter()
                rate = self._every / (now - self._since)
                self.rows.append(
                    {"done": self._done, "tasks/s": rate, **self._memory(), **self._sizes()}
                )
                print(self.rows[-1], flush=True)
                self._since = time.perf_counter()

    def _memory(self) -> dict[str, float]:
        processes = {"flow": psutil.Process().pid, **self._servers}
        return {f"{name}, MB": _resident_megabytes(pid) for name, pid in processes.items()}

    def _sizes(self) -> dict[str, float]:
        files = {"Prefect": "prefect/prefect.db", "MLflow": "mlflow/mlflow.db"}
        addresses = (self._stores.services.prefect_database, self._stores.tracking.uri)
        return {
            f"{name}'s database, MB": _database_megabytes(address, self._stores.state_dir / file)
            for (name, file), address in zip(files.items(), addresses, strict=True)
        }


def _resident_megabytes(pid: int) -> float:
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    if pid == psutil.Process().pid:
        family = family[:1]  # the servers are its children
    return sum(process.memory_info().rss for process in family) / 1e6


def _database_megabytes(address: str | None, file: Path) -> float:
    if address is None:
        return sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*")) / 1e6
    engine = sqlalchemy.create_engine(address)
    with engine.connect() as connection:
        query = sqlalchemy.text("select pg_database_size(current_database())")
        size = connection.execute(query).scalar_one()
    engine.dispose()
    return float(size) / 1e6


@task(name="train", task_run_name="train {category}/{detector}", cache_policy=NO_CACHE)
def _train(settings: Settings, watch: Any, category: str, detector: str) -> None:
    train_nothing(open_tracking(settings), category, detector)
    watch.count()


@flow(name="night", validate_parameters=False)
def _night(settings: Settings, watch: Any, categories: int, workers: int) -> None:
    with ThreadPoolTaskRunner(max_workers=workers) as runner:
        futures = [
            runner.submit(
                _train,
                {
                    "settings": settings,
                    "watch": watch,
                    "category": f"category-{category}",
                    "detector": f"nothing-{detector}",
                },
            )
            for category in range(categories)
            for detector in range(DETECTORS)
        ]
        for future in futures:
            future.result()
