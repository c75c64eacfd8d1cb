"""Export a bundle as a graph for machines without torch.

The export is written only if its scores and maps equal those of the detector on real images, within
a tolerance. ``parity.json`` beside the graph records the differences.
"""

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from itertools import chain, tee
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillwatch.bundle import (
    GRAPH_FILES,
    INFO_FILE,
    REGION_FILE,
    Bundle,
    GraphFormat,
    GraphInfo,
    file_info,
    read_bundle,
)
from stillwatch.detectors.base import Detector
from stillwatch.errors import ExportError
from stillwatch.export.graphs import onnx_to_openvino, write_onnx
from stillwatch.files import atomic_folder, write_json
from stillwatch.geometry import Shape
from stillwatch.inference.inspector import Inspector
from stillwatch.inference.parity import Parity, compare
from stillwatch.inference.scorers import open_scorer
from stillwatch.inference.torch_scorer import load_scorer

PARITY_FILE = "parity.json"


def export_bundle(
    bundle: Bundle,
    folder: Path,
    graph_format: GraphFormat,
    images: Iterable[NDArray[np.uint8]],
    *,
    model_version: int | None = None,
) -> Parity:
    """Write an exported bundle: the graph, ``bundle.json`` with the thresholds, ``parity.json``.

    Args:
        bundle: with weights.
        folder: new or empty.
        graph_format: ``onnx`` or ``openvino``.
        images: scaled, uint8 (h, w, 3) each, at least one, on which graph and detector are compared
            on the CPU; only a few are in memory at a time.
        model_version: of the registry, where the bundle is from there; the score log names it.

    Raises:
        ExportError: the detector cannot be exported, its graph gives other scores, or
            ``folder`` holds something. Nothing is left behind.
    """
    require_new(folder)
    if bundle.info.graph is not None:
        raise ExportError(
            f"{bundle.folder}: is an exported bundle already ({bundle.info.graph.format}). Name "
            "the bundle that it was made from."
        )
    remaining = iter(images)
    first = next(remaining, None)
    if first is None:
        raise ExportError("there is no image to compare the graph with the detector on. Name some.")
    for_detector, for_graph = tee(chain([first], remaining))
    scorer = load_scorer(bundle, "cpu")
    with atomic_folder(folder) as temporary:
        _write_graph(scorer.detector, bundle.info.geometry.tile, temporary, graph_format)
        if bundle.info.region is not None:
            shutil.copyfile(bundle.folder / REGION_FILE, temporary / REGION_FILE)
        graph = GraphInfo(
            format=graph_format,
            files={name: file_info(temporary / name) for name in GRAPH_FILES[graph_format]},
            model_version=model_version,
        )
        info = bundle.info.model_copy(update={"graph": graph})
        write_json(temporary / INFO_FILE, info.model_dump(mode="json"))
        exported = read_bundle(temporary)
        parity = compare(
            Inspector(bundle, scorer).inspect(for_detector),
            Inspector(exported, open_scorer(exported)).inspect(for_graph),
            bundle.info.calibration,
        )
        if parity.problem is not None:
            raise ExportError(
                f"{bundle.folder}: the graph in {graph_format} is not the detector "
                f"({parity.problem}), so nothing was exported. Inspect with PyTorch, or try "
                "another format."
            )
        write_json(temporary / PARITY_FILE, asdict(parity))
    return parity


def _write_graph(detector: Detector, tile: Shape, folder: Path, graph_format: GraphFormat) -> None:
    model = folder / GRAPH_FILES[graph_format][0]
    if graph_format == "onnx":
        write_onnx(detector, tile, model)
        return
    traced = folder / "traced.onnx"
    write_onnx(detector, tile, traced)
    onnx_to_openvino(traced, model)
    traced.unlink()


def require_new(folder: Path) -> None:
    """Raise if a folder is not empty: an exported bundle would replace the folder as a whole.

    Raises:
        ExportError: the path is not a folder, or the folder is not empty.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ExportError(f"{folder}: is there already. Name a folder that is new or empty.")
