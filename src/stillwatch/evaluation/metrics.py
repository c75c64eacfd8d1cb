"""Image-level figures and the counting formulas that pixel-level figures share.

A ranking of images or pixels is described by cumulative counts at descending score thresholds: how
many positives (``true_positives``) and negatives (``false_positives``) score at least that much.
Equal scores share one threshold. The formulas on counts take any leading axes, so that a thousand
bootstrap resamples cost one call.

ROC: Fawcett, "An introduction to ROC analysis", 2006. Average precision: the step sum
sum((R_i - R_{i-1}) P_i), without interpolation, as in scikit-learn.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class Curve(NamedTuple):
    """Points of a curve, from the highest threshold to the lowest."""

    x: Floats
    y: Floats


class Ranking(NamedTuple):
    """Images in the order of descending score."""

    order: NDArray[np.intp]
    """(N,) image at each rank."""
    last: NDArray[np.intp]
    """(T,) rank of the last image of each distinct score."""


def rank_images(scores: ArrayLike) -> Ranking:
    """Order (N,) finite scores from the highest to the lowest."""
    values = np.asarray(scores)
    order = np.argsort(-values, kind="stable")
    changes = np.flatnonzero(np.diff(values[order]))
    return Ranking(order, np.append(changes, len(values) - 1))


def image_counts(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Cumulative (true positives, false positives) of (N,) images, one per distinct score.

    Args:
        labels: (N,) bool, true for anomalies.
        scores: (N,) finite image scores.

    Raises:
        ValueError: there are no anomalies or no normals.
    """
    positive = np.asarray(labels, dtype=bool)
    if not 0 < np.count_nonzero(positive) < positive.size:
        raise ValueError("a ranking figure needs both anomalies and normals")
    order, last = rank_images(scores)
    true_positives = np.cumsum(positive[order], dtype=np.float64)[last]
    return true_positives, last + 1 - true_positives


def image_auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of (N,) images; ties count half. Raises as ``image_counts``."""
    return float(auroc(*image_counts(labels, scores)))


def image_average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision of (N,) images. Raises as ``image_counts``."""
    return float(average_precision(*image_counts(labels, scores)))


def oracle_f1(labels: ArrayLike, scores: ArrayLike) -> float:
    """Best F1 over all thresholds, chosen with the test labels. Raises as ``image_counts``."""
    return float(best_f1(*image_counts(labels, scores)))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> Curve:
    """ROC curve of (N,) images from (0, 0) to (1, 1). Raises as ``image_counts``."""
    true_positives, false_positives = image_counts(labels, scores)
    return Curve(
        from_zero(false_positives) / false_positives[-1],
        from_zero(true_positives) / true_positives[-1],
    )


def auroc(true_positives: Floats, false_positives: Floats) -> Floats:
    """Area under the ROC curve from cumulative counts (..., T) whose last entry is the total."""
    heights = from_zero(true_positives)
    area = np.sum(np.diff(from_zero(false_positives)) * (heights[..., 1:] + heights[..., :-1]), -1)
    return np.asarray(area / (2 * true_positives[..., -1] * false_positives[..., -1]))


def average_precision(true_positives: Floats, false_positives: Floats) -> Floats:
    """Average precision from cumulative counts (..., T) whose last entry is the total."""
    retrieved = true_positives + false_positives
    precision = np.divide(
        true_positives, retrieved, out=np.zeros_like(retrieved), where=retrieved > 0
    )
    steps = np.diff(from_zero(true_positives))
    return np.asarray(np.sum(steps * precision, -1) / true_positives[..., -1])


def best_f1(true_positives: Floats, false_positives: Floats) -> Floats:
    """Highest F1 over the thresholds of cumulative counts (..., T); the last entry is the total."""
    return np.asarray(f1(true_positives, false_positives, true_positives[..., -1:]).max(-1))


def f1(true_positives: ArrayLike, false_positives: ArrayLike, positives: ArrayLike) -> Floats:
    """F1 = 2 TP / (TP + FP + P) of counts, in [0, 1]; ``positives`` P must not be 0."""
    hits = np.asarray(true_positives, dtype=np.float64)
    return np.asarray(2 * hits / (hits + np.asarray(false_positives) + np.asarray(positives)))


def from_zero(counts: Floats) -> Floats:
    """Put the threshold above all scores in front: (..., T) counts become (..., T+1)."""
    return np.concatenate([np.zeros_like(counts[..., :1]), counts], axis=-1)
