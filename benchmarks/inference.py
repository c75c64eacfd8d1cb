"""Time per image and per megapixel with PyTorch, ONNX Runtime and OpenVINO.

Takes the detectors that cells of ``benchmarks.accuracy`` trained. Each is exported in both formats,
and compared with PyTorch on all test images. Then the runtimes inspect the same decoded images one
by one, in turn, so that other load of the machine slows all of them. One JSON file per cell; a cell
that is there is not measured again. Renders ``docs/inference.md``.

    .venv/bin/python -m benchmarks.inference --root mvtec --cells results/screw-*.json \
        --out results/inference
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bundle_images import read_pixels
from benchmarks.cells import complete, read_cells, write_page
from benchmarks.inference_page import render
from benchmarks.revision import commit, machine
from stillwatch.bundle import Bundle, read_bundle
from stillwatch.export.export import export_bundle
from stillwatch.images.decode import Pixels
from stillwatch.images.layout import scan_category
from stillwatch.inference.inspector import Inspector
from stillwatch.inference.scorers import open_scorer
from stillwatch.settings import Settings, load_settings
from stillwatch.tasks.tracking.client import BUNDLE, open_tracking

PAGE = Path("docs/inference.md")
PACKAGES = {"PyTorch": "torch", "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
WARM_UP = 3
"""Images that are not timed."""


def main() -> None:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--cells", type=Path, nargs="+", required=True)
    parser.add_argument("--timed", type=int, default=20, help="images that are timed")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is scored")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    for file in given.cells:
        trained = json.loads(file.read_bytes())
        settings = load_settings(file.parent / "params.yaml")
        what = {"run_id": trained["report"]["run_id"], "timed": given.timed, "rounds": given.rounds}
        run = partial(_run, settings, trained, given.root, given.timed, given.rounds)
        complete(given.out / file.name, what, run)
    write_page(given.page, render(list(read_cells(given.out))))


def _run(
    settings: Settings, trained: Mapping[str, Any], root: Path, timed: int, rounds: int
) -> dict[str, Any]:
    with open_tracking(settings).artifact(trained["report"]["run_id"], BUNDLE) as folder:
        bundle = read_bundle(folder)
        category = scan_category(root / bundle.info.category)
        files = [image for image in category.images if image.split == "test"]
        images = read_pixels(category.folder, files, bundle.info)
        return {
            "commit": commit(),
            "machine": machine(torch.device("cpu")),
            "versions": {name: version(package) for name, package in PACKAGES.items()},
            "category": bundle.info.category,
            "detector": bundle.info.detector.name,
            "teacher": bundle.info.teacher.name,
            "geometry": str(bundle.info.geometry),
            **exported(bundle, images, timed=timed, rounds=rounds),
        }


def exported(
    bundle: Bundle, images: Sequence[Pixels], *, timed: int, rounds: int
) -> dict[str, Any]:
    """Export a bundle in both formats, and measure all runtimes.

    Args:
        bundle: with weights.
        images: scaled, uint8 (h, w, 3) each, all compared and ``timed`` of them timed, ``rounds``
            times each.
    """
    with tempfile.TemporaryDirectory(prefix="stillwatch-inference-") as exports:
        onnx, openvino = (Path(exports) / name for name in ("onnx", "openvino"))
        parity = {
            "ONNX Runtime": export_bundle(bundle, onnx, "onnx", images),
            "OpenVINO": export_bundle(bundle, openvino, "openvino", images),
        }
        inspectors = {
            "PyTorch": Inspector(bundle, open_scorer(bundle, "cpu")),
            "ONNX Runtime": _opened(onnx),
            "OpenVINO": _opened(openvino),
        }
        rows = np.linspace(0, len(images) - 1, min(timed, len(images)), dtype=int)
        milliseconds = measure(inspectors, [images[row] for row in rows], rounds)
    megapixels = [images[row].size / 3e6 for row in rows] * rounds
    return {
        "milliseconds": {
            name: {
                "median": float(np.median(times)),
                "p95": float(np.quantile(times, 0.95)),
                "per_megapixel": float(np.median(np.divide(times, megapixels))),
            }
            for name, times in milliseconds.items()
        },
        "parity": {name: asdict(found) for name, found in parity.items()},
    }


def measure(
    inspectors: Mapping[str, Inspector], images: Sequence[Pixels], rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of every inspection of one image, by runtime: round by round, in their order."""
    for inspector in inspectors.values():
        list(inspector.inspect(images[:WARM_UP]))
    times: dict[str, list[float]] = {name: [] for name in inspectors}
    for _ in range(rounds):
        for image in images:
            for name, inspector in inspectors.items():
                started = time.perf_counter()
                list(inspector.inspect([image]))
                times[name].append(1000 * (time.perf_counter() - started))
    return times


def _opened(folder: Path) -> Inspector:
    bundle = read_bundle(folder)
    return Inspector(bundle, open_scorer(bundle))


if __name__ == "__main__":
    main()
