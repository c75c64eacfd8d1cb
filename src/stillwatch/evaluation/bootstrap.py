"""Stratified bootstrap over test images: 95 % intervals of all figures.

Stratified percentile bootstrap (Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993,
chapter 13): within normals and within each defect type as many images are drawn, with replacement,
as there are. A resample is a vector of weights, one per image; a figure of a resample is computed
from weighted sums of the images' counts, so that no pixel is touched again. A region is drawn with
its image. The detector and its thresholds are fixed.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillwatch.evaluation.counts import Floats, auroc, average_precision, best_f1, f1, rank_images
from stillwatch.evaluation.pixel_metrics import GridCounts, aupro

Interval = tuple[float, float]


def resample_weights(strata: Sequence[str], resamples: int, seed: int) -> Floats:
    """Count how often each image is drawn in each resample.

    Args:
        strata: (N,) stratum of each image: ``good`` or its defect type.
        resamples: number B of resamples.
        seed: same seed, same weights.

    Returns:
        (B, N) counts; each resample draws every stratum's own size.
    """
    rng = np.random.default_rng(seed)
    members = np.asarray(strata)
    weights = np.zeros((resamples, len(members)))
    for stratum in sorted(set(strata)):
        rows = np.flatnonzero(members == stratum)
        weights[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), resamples)
    return weights


def intervals(figures: Mapping[str, Floats]) -> dict[str, Interval]:
    """Intervals of the figures of ``image_metrics`` or ``grid_metrics``.

    Resamples that leave a figure undefined (no region, no defect-free pixel) are left out of its
    interval, and a figure that all leave undefined is absent.
    """
    return {
        name: percentile_interval(values[np.isfinite(values)])
        for name, values in figures.items()
        if np.isfinite(values).any()
    }


def image_metrics(
    labels: ArrayLike, scores: ArrayLike, rejected: ArrayLike, weights: Floats
) -> dict[str, Floats]:
    """``image_auroc``, ``image_ap``, ``f1`` and ``f1_oracle`` of each resample, (B,) each.

    Args:
        labels: (N,) bool, true for anomalies; both kinds must be there.
        scores: (N,) finite image scores.
        rejected: (N,) bool, the verdicts that ``f1`` judges.
        weights: (B, N) from ``resample_weights``.
    """
    positive, alarm = np.asarray(labels, dtype=bool), np.asarray(rejected, dtype=bool)
    order, last = rank_images(scores)
    true_positives = np.cumsum(weights[:, order] * positive[order], axis=1)[:, last]
    false_positives = np.cumsum(weights[:, order] * ~positive[order], axis=1)[:, last]
    at_threshold = f1(
        weights @ (positive & alarm), weights @ (~positive & alarm), weights @ positive
    )
    return {
        "image_auroc": auroc(true_positives, false_positives),
        "image_ap": average_precision(true_positives, false_positives),
        "f1": at_threshold,
        "f1_oracle": best_f1(true_positives, false_positives),
    }


def rejection_rates(labels: ArrayLike, rejected: ArrayLike, weights: Floats) -> dict[str, Floats]:
    """``recall`` and ``false_alarm_rate`` of each resample, (B,) each.

    Without anomalies there is no recall, without normals no false-alarm rate.

    Args:
        labels: (N,) bool, true for anomalies.
        rejected: (N,) bool.
        weights: (B, N) from ``resample_weights``.
    """
    positive, alarm = np.asarray(labels, dtype=bool), np.asarray(rejected, dtype=bool)
    return {
        name: (weights @ (kind & alarm)) / (weights @ kind)
        for name, kind in (("recall", positive), ("false_alarm_rate", ~positive))
        if kind.any()
    }


def grid_metrics(counts: GridCounts, weights: Floats) -> dict[str, Floats]:
    """``pixel_auroc``, ``pixel_ap`` and ``aupro`` of each resample, (B,) each.

    A figure that a resample leaves undefined is NaN, so that the resamples keep their places and
    two detectors can be compared within each.

    Args:
        counts: per image, on one threshold grid.
        weights: (B, N) from ``resample_weights``.
    """
    regions = weights @ counts.regions
    pixels = weights @ counts.false_positives[:, -1]
    has_regions, has_both = regions > 0, (regions > 0) & (pixels > 0)
    true_positives = weights @ counts.true_positives
    false_positives = weights @ counts.false_positives
    overlap = (weights[has_both] @ counts.overlap) / regions[has_both, None]
    figures = {name: np.full(len(weights), np.nan) for name in ("pixel_auroc", "pixel_ap", "aupro")}
    figures["pixel_auroc"][has_both] = auroc(true_positives[has_both], false_positives[has_both])
    figures["pixel_ap"][has_regions] = average_precision(
        true_positives[has_regions], false_positives[has_regions]
    )
    figures["aupro"][has_both] = aupro(overlap, false_positives[has_both])
    return figures


def percentile_interval(values: NDArray[np.float64]) -> Interval:
    """2.5 % and 97.5 % quantiles of (B,) resampled figures."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
