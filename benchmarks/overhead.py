"""What the flow costs beside the work itself.

Runs the retrain flow on one category and takes from its wall time what was spent on training,
inference and decoding. Prints a table and writes JSON.

One detector is evaluated while the next is trained, so that inference is timed beside a training
and partly costs no wall time: ``overhead`` comes out too low. What is left without taking inference
off is ``at_most``; the truth lies between the two.

    .venv/bin/python benchmarks/overhead.py --out results/overhead.json
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import yaml

from flows.prefect_server import prefect_api
from flows.retrain import run_retraining
from stillwatch.images.layout import scan_category
from stillwatch.images.manifest import build_manifest
from stillwatch.images.sample import make_sample_set
from stillwatch.settings import Settings, load_settings

NORMALS, TEST = 80, 52
"""Images of the sample category."""
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
        "commit": _commit(),
        "machine": {"cpu": platform.processor(), "cores": len(os.sched_getaffinity(0))},
        "runs": rows,
        "median_overhead_seconds": statistics.median(row["overhead"] for row in rows),
        "median_at_most_seconds": statistics.median(row["at_most"] for row in rows),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    names = list(rows[0])
    print("  ".join(f"{name:>10}" for name in names))
    for row in rows:
        print("  ".join(f"{row[name]:>10.1f}" for name in names))
    print(
        f"median overhead between {result['median_overhead_seconds']:.1f} s and "
        f"{result['median_at_most_seconds']:.1f} s"
    )


def _measure(folder: Path, runs: int) -> list[dict[str, float]]:
    images = folder / "images"
    make_sample_set(images)
    params = folder / "params.yaml"
    params.write_text(yaml.safe_dump({"detectors": QUICK}), encoding="utf-8")
    settings = load_settings(params)
    rows = []
    with prefect_api(settings.state_dir):
        for seed in range(runs):
            started = time.perf_counter()
            report = run_retraining(
                settings, params=params, root=images, categories=["plate"], seed=seed
            )
            wall = time.perf_counter() - started
            detectors = report.categories["plate"].detectors.values()
            # Each detector scores its normals and the test images; the winner, reloaded from the
            # registry, scores the test images once more.
            training = sum(one.train_seconds for one in detectors)
            winner = report.categories["plate"].detectors[report.categories["plate"].winner]
            inference = sum(one.ms_per_image for one in detectors) * (NORMALS + TEST) / 1000
            inference += winner.ms_per_image * TEST / 1000
            decoding = _decoding_seconds(images / "plate", settings)
            overhead = wall - training - inference - decoding
            rows.append(
                {
                    "wall": wall,
                    "training": training,
                    "inference": inference,
                    "decoding": decoding,
                    "overhead": overhead,
                    "at_most": overhead + inference,
                }
            )
    return rows


def _decoding_seconds(category: Path, settings: Settings) -> float:
    started = time.perf_counter()
    build_manifest(scan_category(category), images=settings.images, expected_md5=None, parts=None)
    return time.perf_counter() - started


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
