"""How long ``stillwatch up`` and ``down`` take, and a run that is started from the Prefect pages.

In a workspace of its own with the sample categories plate and cloth and a copy of plate, trained
for one epoch: a first retraining, ``up``, then *Run* of the deployment ``retrain``, which finds
everything unchanged, and ``down``. Prints a table and writes JSON.

    .venv/bin/python -m benchmarks.services --out results/services.json
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.revision import commit, machine
from benchmarks.tables import markdown, origin
from stillwatch.files import write_json
from stillwatch.flows.servers.prefect_server import local_api
from stillwatch.sample.image_set import make_sample_set
from stillwatch.settings import Settings

_QUICK = {"detectors": {"stfpm": {"epochs": 1}}, "retrain": {"detectors": ["stfpm"]}}
_PATIENCE = 600.0


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="unchanged retrainings")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stillwatch-services-") as folder:
        seconds = _measure(Path(folder), given.runs)
        left = [one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == folder]
    result: dict[str, Any] = {
        "commit": commit(),
        "machine": machine(torch.device("cpu")),
        "seconds": seconds,
        "processes_left": len(left),
    }
    write_json(given.out, result)
    print(origin(f"python -m benchmarks.services --runs {given.runs}", [result]))
    rows = [[what, f"{value:.1f}"] for what, value in seconds.items()]
    print("\n".join(["", *markdown(["what", "seconds"], rows)]))
    print(f"\n{len(left)} processes left")


def _measure(folder: Path, runs: int) -> Mapping[str, float]:
    _make_workspace(folder)
    seconds = {"first retraining of 3 categories, one epoch": _timed(folder, "retrain")}
    seconds["up"] = _timed(folder, "up")
    try:
        url = local_api(Settings(state_dir=folder / ".stillwatch"))
        with temporary_settings({PREFECT_API_URL: url}):
            found = [_run_unchanged() for _ in range(runs)]
    finally:
        seconds["down"] = _timed(folder, "down")
    waited, ran = zip(*found, strict=True)
    return seconds | {
        f"from Run to running, median of {runs}": statistics.median(waited),
        "the longest of them": max(waited),
        f"the same 3 categories unchanged, median of {runs}": statistics.median(ran),
        "the longest of these": max(ran),
    }


def _make_workspace(folder: Path) -> None:
    make_sample_set(folder / "data")
    shutil.copytree(folder / "data" / "plate", folder / "data" / "other-plate")
    (folder / "params.yaml").write_text(yaml.safe_dump(_QUICK), encoding="utf-8")
    (folder / ".gitignore").write_text("/.stillwatch/\n/data\n", encoding="utf-8")
    for command in (
        ["git", "init", "--quiet"],
        [sys.executable, "-m", "dvc", "init", "--quiet"],
        ["git", "add", "--all"],
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-mfirst"],
    ):
        subprocess.run(command, cwd=folder, check=True)


def _timed(folder: Path, *command: str) -> float:
    started = time.perf_counter()
    program = Path(sys.executable).parent / "stillwatch"
    subprocess.run([program, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _run_unchanged() -> tuple[float, float]:
    """Seconds until it ran, and from then to its end."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("retrain/retrain")
        run = client.create_flow_run_from_deployment(deployment.id)
        deadline = time.monotonic() + _PATIENCE
        while run.state is None or not run.state.is_final():
            if time.monotonic() > deadline:
                sys.exit(f"the flow run did not end within {_PATIENCE:.0f} s")
            time.sleep(0.2)
            run = client.read_flow_run(run.id)
    if not run.state.is_completed() or run.created is None or run.start_time is None:
        sys.exit(f"the flow run ended {run.state}")
    return (run.start_time - run.created).total_seconds(), run.total_run_time.total_seconds()


if __name__ == "__main__":
    main()
