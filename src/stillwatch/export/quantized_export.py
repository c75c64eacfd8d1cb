"""A bundle as an exported bundle that computes with 8-bit integers, with thresholds of its own.

Quantising moves every score, so the float32 thresholds and their bounds do not hold for it. They
are set anew on the calibration normals, which the quantiser has not seen; what the accuracy is
then, on the test images, stands in ``quantization.json`` beside that of the float32 graph.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillwatch.bundle import (
    GRAPH_FILES,
    Bundle,
    BundleInfo,
    GraphFormat,
    NormalScores,
    read_bundle,
    write_graph_info,
)
from stillwatch.calibration import calibrate
from stillwatch.errors import ExportError
from stillwatch.evaluation.evaluation import Evaluation, TestImages, evaluate
from stillwatch.export.export import export_bundle, require_new
from stillwatch.export.quantization import quantize_onnx
from stillwatch.files import atomic_folder, write_json
from stillwatch.inference.graph_scorers import OnnxScorer
from stillwatch.inference.inspector import Inspector, score_images
from stillwatch.settings import EvaluationSettings

QUANTIZATION_FILE = "quantization.json"
_FORMAT: GraphFormat = "onnx"
_RANGES = 64
"""Training normals that the ranges are taken from; more take memory and change little."""


@dataclass(frozen=True)
class NormalImages:
    """A category's normals as the bundle sees them, each uint8 (N, S, S, 3)."""

    train: NDArray[np.uint8]
    validation: NDArray[np.uint8]
    calibration: NDArray[np.uint8]


@dataclass(frozen=True)
class Quantization:
    """What quantising has cost, on the same test images with the same runtime."""

    images: int
    synthetic: bool
    """The anomalies are made, not photographed."""
    verdicts_changed: int
    """Test images whose verdict is another one."""
    float32: Mapping[str, float]
    """Figures of the float32 graph with the bundle's thresholds, ``ms_per_image`` among them."""
    int8: Mapping[str, float]
    """Of the quantised graph with thresholds of its own."""


def export_quantized(
    bundle: Bundle,
    folder: Path,
    normals: NormalImages,
    test: TestImages,
    settings: EvaluationSettings,
    largest_losses: Mapping[str, float],
) -> Quantization:
    """Write an exported bundle in ONNX with INT8 convolutions and thresholds of its own.

    Args:
        bundle: with weights.
        folder: new or empty.
        normals: train, validation and calibration as they were when the bundle was made, or larger.
        test: what both graphs are judged on; the float32 graph must give what the detector gives.
        settings: of the evaluation.
        largest_losses: by how much a figure may be lower than in float32, by its name.

    Raises:
        ExportError: as ``export_bundle`` and ``quantize_onnx``, or a figure is lower by more.
            Nothing is left behind.
        CalibrationError: too few calibration normals.
    """
    require_new(folder)
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as made:
        plain = Path(made) / "float32"
        export_bundle(bundle, plain, _FORMAT, np.stack(test.images))
        with atomic_folder(folder) as temporary:
            graph = temporary / GRAPH_FILES[_FORMAT][0]
            quantize_onnx(plain / graph.name, graph, _spread(normals.train, _RANGES))
            write_graph_info(temporary, _recalibrated(bundle, OnnxScorer(graph), normals), _FORMAT)
            found = _compared(
                _evaluated(plain, test, settings), _evaluated(temporary, test, settings)
            )
            _require_accuracy(found, largest_losses)
            write_json(temporary / QUANTIZATION_FILE, asdict(found))
    return found


def _spread(images: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    return images[np.linspace(0, len(images) - 1, min(most, len(images)), dtype=int)]


def _recalibrated(bundle: Bundle, scorer: OnnxScorer, normals: NormalImages) -> BundleInfo:
    before = bundle.info.calibration
    calibration = calibrate(
        score_images(scorer, normals.calibration),
        alpha_reject=before.reject.alpha,
        alpha_review=before.review.alpha,
    )
    scores = NormalScores(
        train=tuple(score_images(scorer, normals.train).tolist()),
        validation=tuple(score_images(scorer, normals.validation).tolist()),
    )
    return bundle.info.model_copy(update={"calibration": calibration, "normal_scores": scores})


def _evaluated(folder: Path, test: TestImages, settings: EvaluationSettings) -> Evaluation:
    bundle = read_bundle(folder)
    scorer = OnnxScorer(folder / GRAPH_FILES[_FORMAT][0])
    return evaluate(Inspector(bundle, scorer), test, settings=settings)


def _require_accuracy(found: Quantization, largest_losses: Mapping[str, float]) -> None:
    lost = [
        f"{name} is {found.int8[name]:.3f}, in float32 {found.float32[name]:.3f}"
        for name, largest in largest_losses.items()
        if name in found.int8 and found.float32[name] - found.int8[name] > largest
    ]
    if lost:
        raise ExportError(
            f"INT8 loses too much on the {found.images} test images: {'; '.join(lost)}. Export "
            "without --int8, or allow more in gate.veto_margins."
        )


def _compared(float32: Evaluation, int8: Evaluation) -> Quantization:
    verdicts = zip(float32.rows, int8.rows, strict=True)
    return Quantization(
        images=len(int8.rows),
        synthetic=int8.synthetic,
        verdicts_changed=sum(one["verdict"] != other["verdict"] for one, other in verdicts),
        float32=float32.metrics | {"ms_per_image": float32.ms_per_image},
        int8=int8.metrics | {"ms_per_image": int8.ms_per_image},
    )
