"""What thousands of trainings a night cost beside the training: Prefect, MLflow, DVC.

A training that trains nothing asks of MLflow and of Prefect what one of ``stillwatch retrain``
does: it looks for an earlier run, logs parameters, twenty epochs, tags and a small bundle. First
each tool alone, per task, and whole retrainings of tiny categories that find everything new and
nothing changed; then the night: all categories times five such detectors in one flow run, with the
tasks per second, memory and the databases' sizes on the way. Costs and night both with SQLite and,
where Debian's package postgresql is installed, with PostgreSQL. Prints tables, writes JSON.

    .venv/bin/python -m benchmarks.scaling --out results/scaling.json
"""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from tests.flows.real_stores import USER, postgres, postgres_programs

from benchmarks.local_prefect import local_prefect
from benchmarks.revision import commit, machine
from benchmarks.scaling_dvc import dvc_costs
from benchmarks.scaling_night import night
from benchmarks.scaling_tools import mlflow_cost, prefect_cost
from benchmarks.scaling_unchanged import unchanged_costs
from benchmarks.tables import markdown, origin
from stillwatch.files import write_json
from stillwatch.flows.servers.mlflow_server import mlflow_service, start_mlflow_server
from stillwatch.settings import ServicesSettings, Settings, TrackingSettings
from stillwatch.tasks.tracking.client import mlflow_folder, open_tracking, tracking_uri

_PASSWORD = "on-loopback-for-a-benchmark"  # noqa: S105


def main(arguments: Sequence[str]) -> None:
    """Measure, print, write."""
    given = _parser().parse_args(arguments)
    found: dict[str, Any] = {
        "commit": commit(),
        "machine": machine(torch.device("cpu")),
        "stores": {},
    }
    with tempfile.TemporaryDirectory(prefix="stillwatch-scaling-") as folder:
        found["dvc"] = dvc_costs(Path(folder) / "dvc", given.dvc_categories)
        found["unchanged"] = unchanged_costs(Path(folder) / "unchanged", given.retrained)
        for store, opened in _kinds_of_stores(Path(folder)).items():
            with opened as settings:
                found["stores"][store] = _measure(settings, given)
            write_json(given.out, found)
            print(f"{store}: measured", flush=True)
    print(origin(f"python -m benchmarks.scaling {shlex.join(arguments)}", [found]))
    print("\n".join(["", *tables(found, given.dvc_categories, given.retrained)]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--categories", type=int, default=1_000, help="of the night; five detectors each")
    add("--tasks", type=int, default=500, help="behind each cost per task")
    add("--workers", type=int, default=8, help="trainings at a time")
    add("--dvc-categories", type=int, default=100, help="of the image set that DVC versions")
    add("--retrained", type=int, default=30, help="categories that are really retrained, twice")
    add("--out", type=Path, required=True)
    return parser


def _kinds_of_stores(folder: Path) -> dict[str, AbstractContextManager[Settings]]:
    """Settings that name Prefect's and MLflow's databases, by their kind."""
    kinds: dict[str, AbstractContextManager[Settings]] = {
        "SQLite": nullcontext(Settings(state_dir=folder / "sqlite"))
    }
    programs = postgres_programs()
    if programs is not None:
        kinds["PostgreSQL"] = _on_postgres(programs, folder / "postgresql")
    return kinds


@contextmanager
def _on_postgres(programs: Path, folder: Path) -> Iterator[Settings]:
    os.environ["PGPASSWORD"] = _PASSWORD
    with postgres(programs, _PASSWORD, ("mlflow", "prefect")) as place:
        address = f"postgresql://{USER}@{place}"
        yield Settings(
            state_dir=folder,
            tracking=TrackingSettings(uri=f"{address}/mlflow"),
            services=ServicesSettings(prefect_database=f"{address}/prefect"),
        )


def _measure(settings: Settings, given: argparse.Namespace) -> dict[str, Any]:
    open_tracking(settings)  # makes the tables
    server = start_mlflow_server(
        tracking_uri(settings),
        (mlflow_folder(settings) / "artifacts").as_uri(),
        settings.state_dir,
        host=settings.services.host,
    )
    served = settings.model_copy(update={"tracking": TrackingSettings(uri=server.url)})
    try:
        with local_prefect(settings):
            return {
                "prefect": prefect_cost(given.tasks, given.workers),
                "mlflow": mlflow_cost(settings, given.tasks),
                "mlflow_server": mlflow_cost(served, given.tasks),
                "night": night(served, settings, server.pid, given.categories, given.workers),
            }
    finally:
        mlflow_service(settings.state_dir).stop()


def tables(found: dict[str, Any], dvc_categories: int, retrained: int) -> Iterable[str]:
    """The lines of the tables in Markdown."""
    stores = found["stores"]
    yield from markdown(
        ["ms per task", *stores],
        [
            [name, *(f"{1000 * costs[key]:.0f}" for costs in stores.values())]
            for name, key in (
                ("Prefect, a task that does nothing", "prefect"),
                ("MLflow, a training's calls, database opened directly", "mlflow"),
                ("MLflow, the same through a server", "mlflow_server"),
            )
        ],
    )
    yield ""
    yield from markdown(
        [f"DVC, {dvc_categories:,} categories", "seconds"],
        [[name, f"{seconds:.2f}"] for name, seconds in found["dvc"].items()],
    )
    yield ""
    yield from markdown(
        [f"Retraining of {retrained:,} tiny categories, one detector", "seconds"],
        [[name, f"{seconds:.1f}"] for name, seconds in found["unchanged"].items()],
    )
    for store, costs in stores.items():
        yield ""
        yield from markdown(
            [f"{store}: tasks done", *list(costs["night"][0])[1:]],
            [[f"{value:,.4g}" for value in row.values()] for row in costs["night"]],
        )


if __name__ == "__main__":
    main(sys.argv[1:])
