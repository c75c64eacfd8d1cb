"""Open the scorer of a bundle: PyTorch for weights, ONNX Runtime or OpenVINO for a graph."""

from stillwatch.bundle import GRAPH_FILES, Bundle
from stillwatch.inference.graph_scorers import OnnxScorer, OpenVinoScorer
from stillwatch.inference.stitching import Scorer


def open_scorer(bundle: Bundle, device: str = "auto") -> Scorer:
    """Open the scorer of a bundle; only a bundle with weights needs torch.

    Args:
        bundle: as ``read_bundle`` gives it.
        device: where torch computes: ``auto``, ``cpu`` or ``cuda[:i]``. Graphs run on the CPU.

    Raises:
        BundleError: the runtime that its graph needs is not installed, or cannot load it.
    """
    graph = bundle.info.graph
    if graph is None:
        from stillwatch.inference.torch_scorer import load_scorer  # an edge box has no torch

        return load_scorer(bundle, device)
    model = bundle.folder / GRAPH_FILES[graph.format][0]
    return OnnxScorer(model) if graph.format == "onnx" else OpenVinoScorer(model)
