"""From a bundle and images to scores, anomaly maps, masks and verdicts.

``inspector`` is the entry, ``scorers`` opens a bundle with PyTorch, ONNX Runtime or OpenVINO,
``files`` inspects image files, ``score_log`` keeps the scores. Only ``torch_scorer`` needs torch.
"""

from stillwatch.inference.inspector import (
    InspectedFile,
    InspectedImage,
    Inspector,
    Scorer,
    find_images,
    score_images,
)
from stillwatch.inference.scorers import open_scorer

__all__ = [
    "InspectedFile",
    "InspectedImage",
    "Inspector",
    "Scorer",
    "find_images",
    "open_scorer",
    "score_images",
]
