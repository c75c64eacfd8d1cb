"""How long an image takes with PyTorch, ONNX Runtime and OpenVINO.

Exports a bundle in both formats, which checks that they give what PyTorch gives, and then has each
of the three score the same decoded images one by one, in turn, so that what else the machine does
hits them alike. Prints a table and writes JSON.

    .venv/bin/python -m benchmarks.inference BUNDLE --images DIR --out results/inference.json
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.revision import commit, machine
from stillwatch.bundle import Bundle, read_bundle
from stillwatch.export import export_bundle
from stillwatch.images.decode import read_image
from stillwatch.inspection import Scorer, find_images
from stillwatch.parity import Parity
from stillwatch.scorers import open_scorer

PACKAGES = {"PyTorch": "torch", "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
WARM_UP = 5
"""Images that are not timed."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5, help="times that each image is scored")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    bundle = read_bundle(given.bundle)
    size, white = bundle.info.image_size, bundle.info.white_level
    files = find_images([given.images])
    images = np.stack([read_image(file, size=size, white_level=white) for file in files])
    with tempfile.TemporaryDirectory(prefix="stillwatch-inference-") as folder:
        onnx, openvino = Path(folder) / "onnx", Path(folder) / "openvino"
        parity = {
            "ONNX Runtime": export_bundle(bundle, onnx, "onnx", images),
            "OpenVINO": export_bundle(bundle, openvino, "openvino", images),
        }
        scorers = {
            "PyTorch": open_scorer(bundle, "cpu"),
            "ONNX Runtime": open_scorer(read_bundle(onnx)),
            "OpenVINO": open_scorer(read_bundle(openvino)),
        }
        milliseconds = measure(scorers, images, given.rounds)
    result = report(bundle, len(images), milliseconds, parity)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{'':14}{'median ms':>10}{'95 % ms':>10}{'maps apart':>12}")
    for name, row in result["runtimes"].items():
        apart = f"{row['map_difference']:.1e}" if name in parity else "–"
        print(f"{name:14}{row['median_ms']:>10.1f}{row['p95_ms']:>10.1f}{apart:>12}")


def measure(
    scorers: Mapping[str, Scorer], images: NDArray[np.uint8], rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of every call with one image, by scorer."""
    for scorer in scorers.values():
        for image in images[:WARM_UP]:
            scorer(image[None])
    times: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in range(rounds):
        for image in images:
            for name, scorer in scorers.items():
                started = time.perf_counter()
                scorer(image[None])
                times[name].append(1000 * (time.perf_counter() - started))
    return times


def report(
    bundle: Bundle,
    images: int,
    milliseconds: Mapping[str, list[float]],
    parity: Mapping[str, Parity],
) -> dict:
    """What is written: where it was measured, and a row per runtime."""
    runtimes = {}
    for name, times in milliseconds.items():
        runtimes[name] = {
            "version": version(PACKAGES[name]),
            "median_ms": float(np.median(times)),
            "p95_ms": float(np.quantile(times, 0.95)),
        }
        if name in parity:
            runtimes[name]["score_difference"] = parity[name].score_difference
            runtimes[name]["map_difference"] = parity[name].map_difference
    return {
        "commit": commit(),
        "machine": machine(torch.device("cpu")),
        "detector": bundle.info.detector.name,
        "teacher": bundle.info.teacher.name,
        "image_size": bundle.info.image_size,
        "images": images,
        "runtimes": runtimes,
    }


if __name__ == "__main__":
    main()
