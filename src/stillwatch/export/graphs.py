"""Trace a detector into an ONNX or OpenVINO graph, from uint8 pixels to level maps."""

import importlib
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from stillwatch.detectors.base import Detector
from stillwatch.errors import ExportError
from stillwatch.geometry import Shape
from stillwatch.teachers.networks import images_to_input

_EXAMPLES = 2
"""Images in the traced batch: the exporter takes a batch of one for a constant."""


def write_onnx(detector: Detector, tile: Shape, path: Path) -> None:
    """Trace a detector into one ONNX file: uint8 tiles (B, H, W, 3) -> level maps, for any B.

    Args:
        detector: trained, on the CPU, in eval mode.
        tile: H and W, in pixels.
        path: the file.

    Raises:
        ExportError: the method is not exportable, the graph cannot be made, or the exporter is not
            installed.
    """
    if not detector.exportable:
        raise ExportError(
            f"detector '{detector.name}' cannot be exported: its method is not marked as "
            "exportable. Inspect with PyTorch, or train another method."
        )
    try:
        importlib.import_module("onnxscript")
    except ImportError as error:
        raise ExportError(
            f"torch's ONNX exporter needs onnxscript ({error}). Install it: pip install "
            "'stillwatch[export]'."
        ) from error
    pixels = torch.zeros(_EXAMPLES, *tile, 3, dtype=torch.uint8)
    try:
        program = torch.export.export(
            _FromPixels(detector).eval(),
            (pixels,),
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
        )
        # From a module in place of a program torch may make a graph for this batch size only.
        graph = torch.onnx.export(program, dynamo=True, input_names=["pixels"], verbose=False)
    except Exception as error:  # tracing runs the code of a method, which may raise anything
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"detector '{detector.name}' with teacher '{detector.teacher.name}' cannot be exported "
            f"({type(error).__name__}: {reason}). Inspect with PyTorch, or train another teacher."
        ) from error
    cast("torch.onnx.ONNXProgram", graph).save(path, external_data=False)


def onnx_to_openvino(onnx: Path, xml: Path) -> None:
    """Write a graph in ONNX in OpenVINO's format, in float32, with its ``.bin`` file beside it.

    Raises:
        ExportError: OpenVINO is not installed, or does not take the graph.
    """
    try:
        import openvino
    except ImportError as error:
        raise ExportError(
            f"openvino is not installed ({error}). Install it: pip install 'stillwatch[export]'."
        ) from error
    try:
        # Not openvino.convert_model, which sends usage data to its makers.
        graph = openvino.Core().read_model(onnx)
    except RuntimeError as error:
        raise ExportError(
            f"OpenVINO {openvino.__version__} does not take the graph ({error}). Export to onnx."
        ) from error
    openvino.save_model(graph, xml, compress_to_fp16=False)


class _FromPixels(nn.Module):
    """The detector as ``TorchScorer`` runs it."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return self.detector.level_maps(images_to_input(pixels))
