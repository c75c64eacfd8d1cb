"""The image score that a method's paper defines for itself; it decides nothing."""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from stillwatch.devices import full_precision
from stillwatch.inference.torch_scorer import TorchScorer
from stillwatch.teachers.networks import images_to_input

_BATCH = 16


def published_score_auroc(
    scorer: TorchScorer, images: NDArray[np.uint8], anomalous: NDArray[np.bool_]
) -> float | None:
    """Image AUROC of that score on uint8 images (N, S, S, 3); None if the method has none."""
    if not hasattr(scorer.detector, "published_scores"):
        return None
    with torch.inference_mode(), full_precision(scorer.device):
        scores = [
            scorer.detector.published_scores(images_to_input(batch.to(scorer.device))).cpu()
            for batch in torch.split(torch.from_numpy(images), _BATCH)
        ]
    return float(roc_auc_score(anomalous, torch.cat(scores).numpy()))
