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


def image_auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of (N,) images; ties count half.

    Args:
        labels: (N,) bool, true for anomalies.
        scores: (N,) finite image scores.

    Raises:
        ValueError: there are no anomalies or no normals.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(_both_kinds(labels), scores))


def image_average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision of (N,) images; arguments and errors as ``image_auroc``."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(_both_kinds(labels), scores))


def image_f1(labels: ArrayLike, rejected: ArrayLike) -> float:
    """F1 of the verdict reject on (N,) images.

    Args:
        labels: (N,) bool, true for anomalies.
        rejected: (N,) bool.
    """
    from sklearn.metrics import f1_score

    return float(f1_score(_both_kinds(labels), rejected))


def oracle_f1(labels: ArrayLike, scores: ArrayLike) -> float:
    """Highest F1 over all thresholds, chosen with the test labels; otherwise as ``image_auroc``."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(_both_kinds(labels), scores)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return float(f1.max())


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> Curve:
    """ROC curve of (N,) images from (0, 0) to (1, 1); arguments and errors as ``image_auroc``."""
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
