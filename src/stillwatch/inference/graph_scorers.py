"""Scorers of exported bundles: graphs run by ONNX Runtime or OpenVINO, in float32 on the CPU.

Each runtime is imported when its scorer is made: an edge box needs only one of them.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillwatch.errors import BundleError
from stillwatch.machine.threads import thread_count

_ERRORS_ONLY = 3
# Without it a CPU that has bfloat16 computes in it, and the scores are others.
_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


class OnnxScorer:
    """Computes level maps with ONNX Runtime.

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
        options.intra_op_num_threads = thread_count()
        # A thread that spins for work takes the core from whatever else the machine does.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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

    def __call__(self, tiles: NDArray[np.uint8], /) -> list[NDArray[np.float32]]:
        """Map uint8 tiles (B, H, W, 3) to level maps, float32 (B, H / stride, W / stride) each."""
        return [np.asarray(level) for level in self._session.run(None, {self._input: tiles})]


class OpenVinoScorer:
    """Computes level maps with OpenVINO.

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
            settings = _FLOAT32 | {"INFERENCE_NUM_THREADS": str(thread_count())}
            self._model = openvino.Core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise BundleError(
                f"{model}: OpenVINO {openvino.__version__} cannot load it ({reason}). Update "
                "openvino, or export the bundle again."
            ) from error

    def __call__(self, tiles: NDArray[np.uint8], /) -> list[NDArray[np.float32]]:
        """Map uint8 tiles (B, H, W, 3) to level maps, float32 (B, H / stride, W / stride) each."""
        return [np.array(level) for level in self._model(tiles).values()]
