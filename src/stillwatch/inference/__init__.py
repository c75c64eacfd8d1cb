"""From a bundle and images to scores, anomaly maps, masks and verdicts.

``inspector`` is the entry; ``scorers`` opens a bundle with PyTorch, ONNX Runtime or OpenVINO;
``stitching`` runs tiles through a scorer, and ``mapper`` makes anomaly maps; ``files`` inspects
image files, ``score_log`` keeps the scores. Only ``torch_scorer`` needs torch.
"""

from stillwatch.inference.inspector import (
    InspectedFile,
    InspectedImage,
    Inspector,
    find_images,
)
from stillwatch.inference.scorers import open_scorer
from stillwatch.inference.stitching import Scorer

__all__ = [
    "InspectedFile",
    "InspectedImage",
    "Inspector",
    "Scorer",
    "find_images",
    "open_scorer",
]
