r"""Time per image and per megapixel with PyTorch, ONNX Runtime and OpenVINO.

Trains each detector with ``benchmarks.direct``, exports it in both formats, and compares both with
PyTorch on all test images. Then the runtimes inspect the same decoded images one by one, in turn,
so that other load of the machine slows all of them. One JSON file per category and detector; a cell
that is there is not measured again unless the method has a new version.

    .venv/bin/python -m benchmarks.inference ROOT/screw ROOT/commutator \
        --groups 'commutator=^(kos\d+)' --detectors patchcore reverse_distillation \
        --out benchmarks/results/inference --page docs/inference.md
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bundle_images import read_pixels
from benchmarks.categories import add_categories, group_patterns
from benchmarks.cells import complete
from benchmarks.direct import laptop_settings, trained_bundle
from benchmarks.inference_page import render
from benchmarks.revision import commit, machine
from benchmarks.tables import publish
from stillwatch.bundle import Bundle, read_bundle
from stillwatch.detectors import detector_class
from stillwatch.errors import StillwatchError
from stillwatch.export.export import export_bundle
from stillwatch.images.decode import Pixels
from stillwatch.images.layout import scan_category
from stillwatch.inference.inspector import Inspector
from stillwatch.inference.scorers import open_scorer
from stillwatch.settings import Settings

PACKAGES = {"PyTorch": "torch", "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
WARM_UP = 3
"""Images that are not timed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_categories(parser)
    parser.add_argument("--detectors", nargs="+", required=True)
    parser.add_argument("--scale", default="fit", help="images.scale")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--timed", type=int, default=20, help="images that are timed")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is scored")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="file of the tables; printed if not given")
    given = parser.parse_args(arguments)
    patterns = group_patterns(given)
    cells = []
    for folder, detector in product(given.categories, given.detectors):
        file = given.out / f"{folder.name}-{given.scale}-{detector}.json"
        what = {"method_version": detector_class(detector).version}
        what |= {"timed": given.timed, "rounds": given.rounds}
        settings = laptop_settings(given.weights, patterns.get(folder.name), given.scale)
        try:
            complete(file, what, partial(_run, folder, settings, detector, what))
        except StillwatchError as error:
            sys.exit(str(error))
        cells.append(json.loads(file.read_bytes()))
    publish(render(cells), given.page)


def _run(
    folder: Path, settings: Settings, detector: str, counts: Mapping[str, int]
) -> dict[str, Any]:
    category = scan_category(folder)
    with tempfile.TemporaryDirectory(prefix="stillwatch-inference-") as made:
        bundle = trained_bundle(folder, settings, detector, 0, Path(made))
        files = [image for image in category.images if image.split == "test"]
        images = read_pixels(folder, files, bundle.info)
        return {
            "commit": commit(),
            "machine": machine(torch.device("cpu")),
            "versions": {name: version(package) for name, package in PACKAGES.items()},
            "category": category.name,
            "detector": detector,
            "teacher": bundle.info.teacher.name,
            "geometry": str(bundle.info.geometry),
            **exported(bundle, images, timed=counts["timed"], rounds=counts["rounds"]),
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
