"""Windows of the stream against the calibration scores: detects a difference from the first image.

A martingale against the stream's own past is slow to see that (``stillwatch.drift.martingale``).
Here the stream is cut into windows that do not overlap, and each is compared with the calibration
scores by the exact two-sided Mann-Whitney test (Mann & Whitney, Annals of Mathematical Statistics
18, 1947), ties broken at random. Window k may alarm by mistake with probability a/(k(k+1)), all of
them together with at most a. All windows share one set of calibration scores, so that their
p-values are dependent; the union bound allows for that.

What the guarantee needs: that the calibration scores and those of a window are exchangeable (see
``stillwatch.drift.martingale`` for what is not). The test detects scores that tend to lie
above, or below, the calibration scores, not scores that only spread more. With few calibration
images it detects large shifts only.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillwatch.drift.ranking import random_order

WINDOW = 100
"""Number of images in a window."""


def window_p_values(
    scores: ArrayLike, calibration_scores: ArrayLike, *, seed: int
) -> NDArray[np.float64]:
    """The p-value of each whole window, first window first.

    Args:
        scores: (T,) of all inspected images of one model version, in their order.
        calibration_scores: (n,) of that version's calibration normals, in a fixed order; n >= 1.
        seed: 0 or larger; chosen without looking at the scores.

    Returns:
        float64 (T // WINDOW,), in (0, 1].
    """
    from scipy.stats import mannwhitneyu  # imports for a second

    count = np.size(scores) // WINDOW
    if count == 0:
        return np.empty(0)
    order = random_order(scores, calibration_scores, seed=seed)
    ranks = np.empty(order.size)
    ranks[order] = np.arange(order.size)
    n = np.size(calibration_scores)
    windows = ranks[n : n + count * WINDOW].reshape(count, WINDOW)
    outcome = mannwhitneyu(windows, ranks[None, :n], method="exact", axis=1)
    return np.asarray(outcome.pvalue, dtype=np.float64)


def window_levels(count: int, probability: float) -> NDArray[np.float64]:
    """Levels of windows 1 .. ``count``: a p-value at or below raises an alarm; float64 (count,).

    Of however many windows, the levels add up to less than ``probability``.
    """
    window = np.arange(1, count + 1)
    return np.asarray(probability / (window * (window + 1)), dtype=np.float64)
