"""Check that two runs of one detector give the same scores and verdicts on the same images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillwatch.calibration import Calibration, Verdict
from stillwatch.inference.inspector import InspectedImage

_OF_THRESHOLD, _OF_LARGEST = 1e-4, 1e-5
"""Tolerances relative to the threshold and to the largest score: far above float32 rounding."""


@dataclass(frozen=True)
class Scores:
    """Scores and verdicts of one run, in the order of the images."""

    scores: tuple[float, ...]
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Parity:
    """Differences between two runs of a detector, maps included."""

    images: int
    tolerance: float
    """Absolute, in units of the raw score."""
    score_difference: float
    """Largest absolute difference of a score."""
    map_difference: float
    """Largest absolute difference of a pixel of the maps."""
    verdicts_compared: int
    """Images farther than ``tolerance`` from both thresholds: their verdicts must be equal."""
    problem: str | None
    """How the runs differ, in one sentence; None if they agree."""


def compare(
    first: Iterable[InspectedImage], second: Iterable[InspectedImage], calibration: Calibration
) -> Parity:
    """Compare two runs on the same images in the same order.

    Both are read one image at a time, so that no more maps are in memory than inspection has there.
    """
    pairs, apart = [], 0.0
    for one, other in zip(first, second, strict=True):
        pairs.append((one.score, one.verdict, other.score, other.verdict))
        apart = max(apart, float(np.abs(one.anomaly_map - other.anomaly_map).max()))
    before = Scores(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))
    after = Scores(tuple(pair[2] for pair in pairs), tuple(pair[3] for pair in pairs))
    thresholds = (calibration.reject.value, calibration.review.value)
    tolerance = tolerance_of(thresholds[0], before.scores)
    problem = difference(before, after, thresholds, tolerance)
    if problem is None and apart > tolerance:
        problem = f"the maps differ by up to {apart:.3g}, more than {tolerance:.3g}"
    return Parity(
        images=len(pairs),
        tolerance=tolerance,
        score_difference=float(np.abs(np.subtract(before.scores, after.scores)).max(initial=0.0)),
        map_difference=apart,
        verdicts_compared=int(_clear(before.scores, thresholds, tolerance).sum()),
        problem=problem,
    )


def tolerance_of(threshold: float, scores: Sequence[float]) -> float:
    """The absolute difference of raw scores that parity allows."""
    largest = max((abs(score) for score in scores), default=0.0)
    return max(_OF_THRESHOLD * abs(threshold), _OF_LARGEST * largest)


def difference(
    first: Scores, second: Scores, thresholds: Sequence[float], tolerance: float
) -> str | None:
    """Describe how two runs differ; None if scores and verdicts agree.

    Verdicts must be equal for every image farther than ``tolerance`` from every threshold.
    """
    problem = scores_agree(first.scores, second.scores, thresholds, tolerance)
    if problem is not None:
        return problem
    for image, clear in enumerate(_clear(first.scores, thresholds, tolerance)):
        before, after = first.verdicts[image], second.verdicts[image]
        if clear and before != after:
            return f"image {image} has the verdict {before} in one run and {after} in the other"
    return None


def scores_agree(
    a: ArrayLike, b: ArrayLike, thresholds: Sequence[float], tolerance: float
) -> str | None:
    """Compare the scores of two runs within ``tolerance``.

    They agree when no score differs by more than ``tolerance`` and every image farther than that
    from a threshold lies on the same side of it in both.

    Args:
        a: (N,) image scores of one run.
        b: (N,) image scores of the other run, in the same order.
        thresholds: raw scores at which a verdict changes.
        tolerance: largest absolute difference that is allowed.

    Returns:
        None when they agree, else one sentence that says where they do not.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        return f"{first.size} scores are compared with {second.size}"
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return "some scores are not finite numbers"
    for threshold in thresholds:
        clear = np.maximum(np.abs(first - threshold), np.abs(second - threshold)) > tolerance
        flipped = clear & ((first > threshold) != (second > threshold))
        if flipped.any():
            image = int(flipped.argmax())
            return (
                f"image {image} scores {first[image]:.6g} in one run and {second[image]:.6g} in "
                f"the other, on different sides of the threshold {threshold:.6g}"
            )
    difference = np.abs(first - second)
    if difference.max(initial=0.0) > tolerance:
        worst = int(difference.argmax())
        return (
            f"image {worst} scores {first[worst]:.6g} in one run and {second[worst]:.6g} in the "
            f"other, more than {tolerance:g} apart"
        )
    return None


def _clear(
    scores: Sequence[float], thresholds: Sequence[float], tolerance: float
) -> NDArray[np.bool_]:
    """Which scores are farther than ``tolerance`` from every threshold: (N,)."""
    distances = np.abs(np.subtract.outer(np.asarray(scores, np.float64), np.asarray(thresholds)))
    return np.asarray((distances > tolerance).all(axis=1))
