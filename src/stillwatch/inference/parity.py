"""Check that two runs of one detector give the same scores and verdicts on the same images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """Describe how two runs on the same images differ; None if scores and verdicts agree.

    No score may differ by more than ``tolerance``, and verdicts must be equal for every image
    farther than that from every threshold.
    """
    before, after = np.array(first.scores, np.float64), np.array(second.scores, np.float64)
    if before.shape != after.shape:
        return f"{before.size} scores are compared with {after.size}"
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return "some scores are not finite numbers"
    apart = np.abs(before - after)
    if apart.max(initial=0.0) > tolerance:
        image = int(apart.argmax())
        return (
            f"image {image} scores {before[image]:.6g} in one run and {after[image]:.6g} in the "
            f"other, more than {tolerance:g} apart"
        )
    for image in np.flatnonzero(_clear(first.scores, thresholds, tolerance)).tolist():
        one, other = first.verdicts[image], second.verdicts[image]
        if one != other:
            return f"image {image} has the verdict {one} in one run and {other} in the other"
    return None


def _clear(
    scores: Sequence[float], thresholds: Sequence[float], tolerance: float
) -> NDArray[np.bool_]:
    """Which scores are farther than ``tolerance`` from every threshold: (N,)."""
    distances = np.abs(np.subtract.outer(np.asarray(scores, np.float64), np.asarray(thresholds)))
    return np.asarray((distances > tolerance).all(axis=1))
