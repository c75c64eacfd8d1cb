"""An exported graph, run by ONNX Runtime, as the scorer of ``stillwatch.inference.inspector``."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillwatch.errors import BundleError

_ERRORS_ONLY = 3


class OnnxScorer:
    """Raw anomaly maps of a graph in ONNX, in float32 on the CPU.

    Args:
        model: the graph's file.

    Raises:
        BundleError: ONNX Runtime is not installed, or cannot load the graph.
    """

    def __init__(self, model: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BundleError(
                f"{model}: needs ONNX Runtime ({error}). Install it: pip install "
                "'stillwatch[edge]'."
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no base class of their own
            reason = " ".join(str(error).split())
            raise BundleError(
                f"{model}: ONNX Runtime {onnxruntime.__version__} cannot load it ({reason}). "
                "Update onnxruntime, or export the bundle again."
            ) from error
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Map uint8 images (B, S, S, 3) to anomaly maps float32 (B, S, S)."""
        (maps,) = self._session.run(None, {self._input: images})
        return np.asarray(maps)
