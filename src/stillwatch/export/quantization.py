"""Quantise the convolutions of a graph to 8-bit integers after training.

Ranges are those that the activations take on training normals. Only convolutions are quantised: the
distances between teacher and student, small differences of large numbers, stay in float32. Weights
have 7 bits and a scale per channel, so that processors without VNNI instructions do not saturate
(ONNX Runtime's advice for AVX2 and AVX-512).
"""

import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillwatch.errors import ExportError

_QUANTIZED = ("Conv", "ConvTranspose")


def quantize_onnx(graph: Path, quantized: Path, images: NDArray[np.uint8]) -> None:
    """Write a float32 graph in ONNX as one with INT8 convolutions, in ONNX's QDQ form.

    Args:
        graph: takes uint8 images (B, S, S, 3).
        quantized: the file that is written.
        images: uint8 (N, S, S, 3), at least one; normals that the detector was trained on.

    Raises:
        ExportError: ONNX Runtime's quantiser is not installed or does not take the graph, or there
            is no convolution in it.
    """
    try:
        onnx = importlib.import_module("onnx")
        quantization = importlib.import_module("onnxruntime.quantization")
    except ImportError as error:
        raise ExportError(
            f"quantising needs onnx and onnxruntime ({error}). Install them: pip install "
            "'stillwatch[export]'."
        ) from error
    operators = {node.op_type for node in onnx.load(graph).graph.node}
    if not operators.intersection(_QUANTIZED):
        raise ExportError(
            f"{graph.name}: has no convolution, so there is nothing to quantise. Export it without "
            "--int8."
        )
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            quantization.shape_inference.quant_pre_process(
                graph, prepared, skip_symbolic_shape=True
            )
            quantization.quantize_static(
                prepared,
                quantized,
                _Images(images),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTIZED),
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        except Exception as error:  # the quantiser's errors have no base class of their own
            reason = " ".join(str(error).split())
            raise ExportError(
                f"ONNX Runtime cannot quantise the graph ({type(error).__name__}: {reason}). "
                "Export it without --int8."
            ) from error


class _Images:
    """Images one by one, as the quantiser asks for them."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._feeds: Iterator[dict[str, NDArray[np.uint8]]] = (
            {"pixels": image[None]} for image in images
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._feeds, None)
