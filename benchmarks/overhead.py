"""What the flow costs beside the work itself.

Runs the retrain flow on one category of the sample set with one detector after the other, so that
nothing runs beside anything else, and takes from its wall time what was spent on training,
inference and decoding. The process that trains and the one that reloads the registered model begin
by importing torch, timm and MLflow, as any script would that does the same work: ``imports``, timed
on its own, is theirs, and no overhead. Prints a table and writes JSON.

    .venv/bin/python -m benchmarks.overhead --out results/overhead.json
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.local_prefect import local_prefect
from benchmarks.revision import commit
from stillwatch.flows.retrain import run_retraining
from stillwatch.images.layout import scan_category
from stillwatch.images.manifest import build_manifest
from stillwatch.sample.image_set import make_sample_set
from stillwatch.settings import Settings, load_settings

NORMALS, TEST = 80, 52
"""Images of the sample category."""
PROCESSES = (
    "import stillwatch.training.child, timm",
    "import torch, timm, mlflow.pyfunc, stillwatch.tasks.registry.reload_process",
)
QUICK = {"stfpm": {"epochs": 2}, "reverse_distillation": {"epochs": 2}}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stillwatch-overhead-") as folder:
        rows = _measure(Path(folder), given.runs)
    result = {
        "commit": commit(),
        "machine": {"cpu": platform.processor(), "cores": len(os.sched_getaffinity(0))},
        "runs": rows,
        "median_overhead_seconds": statistics.median(row["overhead"] for row in rows),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    names = list(rows[0])
    print("  ".join(f"{name:>10}" for name in names))
    for row in rows:
        print("  ".join(f"{row[name]:>10.1f}" for name in names))
    print(f"median overhead {result['median_overhead_seconds']:.1f} s")


def _measure(folder: Path, runs: int) -> list[dict[str, float]]:
    images = folder / "images"
    make_sample_set(images)
    params = folder / "params.yaml"
    params.write_text(yaml.safe_dump({"detectors": QUICK}), encoding="utf-8")
    settings = load_settings(params)
    imports = sum(_seconds_of(process) for process in PROCESSES)
    with local_prefect(settings):
        return [
            _run(settings, params, images, seed=seed, detector=detector, imports=imports)
            for seed in range(runs)
            for detector in QUICK
        ]


def _run(
    settings: Settings, params: Path, images: Path, *, seed: int, detector: str, imports: float
) -> dict[str, float]:
    started = time.perf_counter()
    report = run_retraining(
        settings,
        params=params,
        root=images,
        categories=["plate"],
        detectors=[detector],
        seeds=[seed],
    )
    wall = time.perf_counter() - started
    (seeds,) = report.categories["plate"].detectors.values()
    (done,) = seeds.values()
    # The normals are scored for calibration, the test images for the figures and, by the model
    # reloaded from the registry, for parity.
    inference = done.ms_per_image * (NORMALS + 2 * TEST) / 1000
    decoding = _decoding_seconds(images / "plate", settings)
    return {
        "wall": wall,
        "training": done.train_seconds,
        "inference": inference,
        "decoding": decoding,
        "imports": imports,
        "overhead": wall - done.train_seconds - inference - decoding - imports,
    }


def _decoding_seconds(category: Path, settings: Settings) -> float:
    started = time.perf_counter()
    build_manifest(scan_category(category), images=settings.images, expected_md5=None, parts=None)
    return time.perf_counter() - started


def _seconds_of(statement: str) -> float:
    """Median wall time of a Python process that does nothing else."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
