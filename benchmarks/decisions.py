"""What the commands cost that a person waits for: models, history, doctor, promote and rollback.

In a plant of its own with the sample category plate, trained for one epoch: two retrainings, the
first version made champion, the second waiting for approval. Of ``models``, ``history`` and
``doctor`` the CPU seconds count, user and system together; of ``promote`` and ``rollback`` the
seconds of the whole command, which is started with the answer and ends after the alias has moved.
Prints a table and writes JSON.

    .venv/bin/python -m benchmarks.decisions --out results/decisions.json
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.revision import commit, machine
from benchmarks.tables import markdown, origin
from stillwatch.files import write_json
from stillwatch.sample.image_set import make_sample_set

_PARAMS = {
    "detectors": {"stfpm": {"epochs": 1}},
    "images": {"size": 64},
    "retrain": {
        "detectors": ["stfpm"],
        "floors": {"image_auroc": 0.0, "aupro": 0.0, "recall": 0.0},
    },
    # No comparison refuses the second version.
    "gate": {
        "promotion": "approval",
        "margin": 0.99,
        "veto_margins": dict.fromkeys(("image_auroc", "aupro", "recall", "false_alarm_rate"), 0.99),
    },
}
_CHEAP = (["models"], ["history", "plate"], ["doctor"])
_APPROVED = ("promote", "plate", "--approve", "--reason", "measured", "--despite", "measured")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="of each command but promote")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stillwatch-decisions-") as folder:
        measured = _measure(Path(folder), given.runs)
    result: dict[str, Any] = {
        "commit": commit(),
        "machine": machine(torch.device("cpu")),
        "load": os.getloadavg()[0],
        **measured,
    }
    write_json(given.out, result)
    print(origin(f"python -m benchmarks.decisions --runs {given.runs}", [result]))
    rows = [
        [command, kind.replace("_", " "), f"{statistics.median(values):.2f}", f"{max(values):.2f}"]
        for kind, commands in measured.items()
        for command, values in commands.items()
    ]
    print("\n".join(["", *markdown(["command", "figure", "median", "most"], rows)]))


def _measure(folder: Path, runs: int) -> dict[str, dict[str, list[float]]]:
    plant = folder / "plant"
    _run(folder, "init", str(plant))
    make_sample_set(plant / "data")
    (plant / "params.yaml").write_text(yaml.safe_dump(_PARAMS), encoding="utf-8")
    promoting = []
    for seed in ("0", "1"):
        try:
            _run(plant, "retrain", "--category", "plate", "--seed", seed)
        finally:
            _run(plant, "down")  # the Prefect server that the retraining started
        promoting.append(_seconds(plant, *_APPROVED))
    back = [str(1 + number % 2) for number in range(runs)]  # version 1 first, then in turns
    return {
        "cpu_seconds": {
            command[0]: [_cpu_seconds(plant, *command) for _ in range(runs)] for command in _CHEAP
        },
        "seconds": {
            "promote": promoting,
            "rollback": [
                _seconds(plant, "rollback", "plate", "--reason", "measured", "--version", version)
                for version in back
            ],
        },
    }


def _cpu_seconds(plant: Path, *command: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run(plant, *command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _seconds(plant: Path, *command: str) -> float:
    started = time.perf_counter()
    said = _run(plant, *command)
    seconds = time.perf_counter() - started
    print(said.splitlines()[0], file=sys.stderr)  # whether the version was reloaded
    return seconds


def _run(folder: Path, *command: str) -> str:
    program = Path(sys.executable).parent / "stillwatch"
    done = subprocess.run(
        [program, *command], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


if __name__ == "__main__":
    main()
