"""Ranking figures from cumulative counts, for many bootstrap resamples in one call.

A ranking of images or pixels is described by cumulative counts at descending score thresholds: how
many positives (``true_positives``) and negatives (``false_positives``) score at least that much.
Equal scores share one threshold. The formulas take any leading axes, so that a thousand resamples
cost one call; scikit-learn, which ``metrics`` uses, takes one ranking at a time.

ROC: Fawcett, "An introduction to ROC analysis", 2006. Average precision: the step sum
sum((R_i - R_{i-1}) P_i), without interpolation, as in scikit-learn.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def rank_images(scores: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Order (N,) finite scores from the highest to the lowest.

    Returns:
        (N,) image at each rank, and (T,) rank of the last image of each distinct score.
    """
    values = np.asarray(scores)
    order = np.argsort(-values, kind="stable")
    changes = np.flatnonzero(np.diff(values[order]))
    return order, np.append(changes, len(values) - 1)


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
