"""Image-level figures of a test set, computed by scikit-learn.

scikit-learn is imported where a figure is computed: the import takes seconds, and few of the
processes that read evaluations compute one.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillwatch.evaluation.counts import Floats


class Curve(NamedTuple):
    """Points of a curve, from the highest threshold to the lowest."""

    x: Floats
    y: Floats


def image_metrics(labels: ArrayLike, scores: ArrayLike, rejected: ArrayLike) -> dict[str, float]:
    """``image_auroc``, ``image_ap``, ``f1`` of the verdict reject and ``f1_oracle``.

    In the area under the ROC curve ties count half. The oracle's F1 is the highest over all
    thresholds, chosen with the test labels.

    Args:
        labels: (N,) bool, true for anomalies.
        scores: (N,) finite image scores.
        rejected: (N,) bool.

    Raises:
        ValueError: there are no anomalies or no normals.
    """
    from sklearn import metrics

    anomalous = _both_kinds(labels)
    precision, recall, _ = metrics.precision_recall_curve(anomalous, scores)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return {
        "image_auroc": float(metrics.roc_auc_score(anomalous, scores)),
        "image_ap": float(metrics.average_precision_score(anomalous, scores)),
        "f1": float(metrics.f1_score(anomalous, rejected)),
        "f1_oracle": float(f1.max()),
    }


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> Curve:
    """ROC curve of (N,) images from (0, 0) to (1, 1); errors as ``image_metrics``."""
    from sklearn.metrics import roc_curve as points

    false_positive_rate, true_positive_rate, _ = points(
        _both_kinds(labels), scores, drop_intermediate=False
    )
    return Curve(false_positive_rate, true_positive_rate)


def _both_kinds(labels: ArrayLike) -> NDArray[np.bool_]:
    anomalous = np.asarray(labels, dtype=bool)
    if not 0 < np.count_nonzero(anomalous) < anomalous.size:
        raise ValueError("a ranking figure needs both anomalies and normals")
    return anomalous
