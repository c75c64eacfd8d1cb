"""How much of an image AUROC is the light: normals in another light than the training's.

Where the test normals were photographed in another light than the training normals, a detector that
finds that odd, too, ranks them beside the anomalies, and its image AUROC says more about the light
than about defects. Two figures tell: the AUROC of the same anomalies against the calibration
normals, which are lit like the training; and that of the test images after each was brought to the
brightness of the training.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from stillwatch.images.decode import Pixels
from stillwatch.inference.mapper import ImageMapper

_WHITE = 255


def against_calibration_auroc(
    test_scores: NDArray[np.float32],
    anomalous: NDArray[np.bool_],
    calibration_scores: Sequence[float],
) -> float:
    """AUROC of the anomalies among the test scores (N,) against the calibration normals."""
    anomalies = test_scores[anomalous]
    truth = np.concatenate([np.zeros(len(calibration_scores)), np.ones(len(anomalies))])
    return float(roc_auc_score(truth, np.concatenate([calibration_scores, anomalies])))


def same_light_auroc(
    mapper: ImageMapper,
    images: Sequence[Pixels],
    anomalous: NDArray[np.bool_],
    normals: Sequence[Pixels],
) -> float:
    """Image AUROC on images, uint8 (h, w, 3) each, in the light of the training ``normals``."""
    brightness = float(np.mean([image.mean() for image in normals]))
    relit = (in_light(image, brightness) for image in images)
    return float(roc_auc_score(anomalous, mapper.scores(relit)))


def in_light(image: NDArray[np.uint8], brightness: float) -> NDArray[np.uint8]:
    """An image multiplied so that its mean becomes ``brightness``; what exceeds white is cut."""
    mean = float(image.mean())
    gain = brightness / mean if mean else 1.0
    return np.clip(np.rint(image * gain), 0, _WHITE).astype(np.uint8)
