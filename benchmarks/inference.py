"""How long an image takes with PyTorch, ONNX Runtime and OpenVINO, and what 8-bit integers cost.

Takes the detectors that cells of ``benchmarks.accuracy`` trained. Each is exported in both formats,
which checks on all test images that they give what PyTorch gives, and with INT8 convolutions; then
each runtime scores the same decoded images one by one, in turn, so that what else the machine does
hits them alike. One JSON file per cell; one that is there is not measured again. Renders
``docs/inference.md``.

    .venv/bin/python -m benchmarks.inference --root mvtec --cells results/screw-*.json \
        --out results/inference
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
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
from numpy.typing import NDArray

from stillwatch.bundle import Bundle, read_bundle
from stillwatch.export.export import export_bundle
from stillwatch.export.quantized_export import Quantization
from stillwatch.flows.cli.inspection.export import export_quantized_model
from stillwatch.images.layout import scan_category
from stillwatch.inference.inspector import Scorer
from stillwatch.inference.scorers import open_scorer
from stillwatch.settings import GateSettings, Settings, VetoMargins, load_settings
from stillwatch.tasks.tracking.client import BUNDLE, open_tracking

PAGE = Path("docs/inference.md")
PACKAGES = {"PyTorch": "torch", "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
_ANY_LOSS = VetoMargins(image_auroc=0.999, aupro=0.999)
"""What INT8 costs is measured where an export would be refused, too."""
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

        def quantize(target: Path) -> Quantization:
            anyway = settings.model_copy(update={"gate": GateSettings(veto_margins=_ANY_LOSS)})
            return export_quantized_model(
                str(folder), target, root=root.resolve(), settings=anyway, say=print
            )

        return {
            "commit": commit(),
            "machine": machine(torch.device("cpu")),
            "versions": {name: version(package) for name, package in PACKAGES.items()},
            "category": bundle.info.category,
            "detector": bundle.info.detector.name,
            "teacher": bundle.info.teacher.name,
            "image_size": bundle.info.image_size,
            **exported(bundle, images, quantize, timed=timed, rounds=rounds),
        }


def exported(
    bundle: Bundle,
    images: NDArray[np.uint8],
    quantize: Callable[[Path], Quantization],
    *,
    timed: int,
    rounds: int,
) -> dict[str, Any]:
    """Export a bundle in every way, and measure all ways.

    Args:
        bundle: with weights.
        images: uint8 (N, S, S, 3), all compared and ``timed`` of them timed, ``rounds`` times each.
        quantize: exports the bundle with INT8 convolutions into a folder.
    """
    with tempfile.TemporaryDirectory(prefix="stillwatch-inference-") as exports:
        onnx, openvino, int8 = (Path(exports) / name for name in ("onnx", "openvino", "int8"))
        parity = {
            "ONNX Runtime": export_bundle(bundle, onnx, "onnx", images),
            "OpenVINO": export_bundle(bundle, openvino, "openvino", images),
        }
        quantization = quantize(int8)
        scorers = {
            "PyTorch": open_scorer(bundle, "cpu"),
            "ONNX Runtime": open_scorer(read_bundle(onnx)),
            "OpenVINO": open_scorer(read_bundle(openvino)),
            "INT8": open_scorer(read_bundle(int8)),
        }
        spread = images[np.linspace(0, len(images) - 1, min(timed, len(images)), dtype=int)]
        milliseconds = measure(scorers, spread, rounds)
    return {
        "milliseconds": {
            name: {"median": float(np.median(times)), "p95": float(np.quantile(times, 0.95))}
            for name, times in milliseconds.items()
        },
        "parity": {name: asdict(found) for name, found in parity.items()},
        "quantization": asdict(quantization),
    }


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


if __name__ == "__main__":
    main()
