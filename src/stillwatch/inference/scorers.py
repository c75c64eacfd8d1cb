"""Which scorer a bundle's files are for."""

from stillwatch.bundle import GRAPH_FILES, Bundle
from stillwatch.inference.inspector import Scorer


def open_scorer(bundle: Bundle, device: str = "auto") -> Scorer:
    """The scorer of a bundle; only one that holds weights needs torch.

    Args:
        bundle: as ``read_bundle`` gives it.
        device: where torch computes: ``auto``, ``cpu`` or ``cuda[:i]``. Graphs run on the CPU.

    Raises:
        BundleError: the runtime that its graph needs is not installed, or cannot load it.
        StillwatchError: as ``stillwatch.inference.torch_scorer.load_scorer``.
    """
    graph = bundle.info.graph
    if graph is None:
        from stillwatch.inference.torch_scorer import load_scorer

        return load_scorer(bundle, device)
    model = bundle.folder / GRAPH_FILES[graph.format][0]
    if graph.format == "onnx":
        from stillwatch.inference.onnx_scorer import OnnxScorer

        return OnnxScorer(model)
    from stillwatch.inference.openvino_scorer import OpenVinoScorer

    return OpenVinoScorer(model)
