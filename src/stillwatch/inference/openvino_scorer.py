"""An exported graph as the scorer that ``stillwatch.inference.inspector`` asks for, by OpenVINO."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillwatch.errors import BundleError

# Without it a CPU that has bfloat16 computes in it, and the scores are others.
_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


class OpenVinoScorer:
    """Raw anomaly maps of a graph in OpenVINO's format, in float32 on the CPU.

    Args:
        model: the graph's ``.xml`` file, with its ``.bin`` file beside it.

    Raises:
        BundleError: OpenVINO is not installed, or cannot load the graph.
    """

    def __init__(self, model: Path) -> None:
        try:
            import openvino
        except ImportError as error:
            raise BundleError(
                f"{model}: needs OpenVINO ({error}). Install it: pip install 'stillwatch[edge]'."
            ) from error
        try:
            self._model = openvino.Core().compile_model(model, "CPU", _FLOAT32)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise BundleError(
                f"{model}: OpenVINO {openvino.__version__} cannot load it ({reason}). Update "
                "openvino, or export the bundle again."
            ) from error

    def __call__(self, images: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Map uint8 images (B, S, S, 3) to anomaly maps float32 (B, S, S)."""
        return np.asarray(self._model(images)[0])
