"""Order calibration and stream scores, ties broken at random.

Random numbers break ties: scores that are equal by nature (a camera that repeats itself, 8-bit
images) have no ranks of their own otherwise. Where the scores are exchangeable, so are the pairs
(score, random number), and these have no ties.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def random_order(
    scores: ArrayLike, calibration_scores: ArrayLike, *, seed: int
) -> NDArray[np.int64]:
    """Order the calibration scores, numbered from 0, and the stream's, numbered on, by value.

    How two of them are ordered does not depend on what the stream brings later.

    Args:
        scores: (T,) of the stream, in the order of inspection.
        calibration_scores: (n,) of the calibration normals, in a fixed order.
        seed: 0 or larger; breaks the ties.

    Returns:
        int64 (n+T,): the numbers, smallest score first.
    """
    values = np.concatenate([np.ravel(calibration_scores), np.ravel(scores)]).astype(np.float64)
    return np.lexsort((np.random.default_rng(seed).random(values.size), values))


def smaller_before(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of N numbered items, count the smaller numbers that stand before it in ``order``.

    The levels of a wavelet matrix (Claude, Navarro & Ordóñez, "The wavelet matrix", Information
    Systems 47, 2015): each halves the blocks of numbers, and in O(N) counts for the items of every
    right half those of its left half that stand before them. O(N log N) in all.

    Args:
        order: (N,) a permutation of 0 .. N-1.

    Returns:
        int64 (N,), by number.
    """
    counts = np.zeros(order.size, np.int64)
    place = np.arange(order.size)
    for bit in reversed(range(order.size.bit_length())):
        half = 1 << bit
        right = (order & half) != 0
        begin = order >> (bit + 1) << (bit + 1)
        lefts = np.concatenate([[0], np.cumsum(~right)])
        before = lefts[place] - lefts[begin]
        counts[order] += np.where(right, before, 0)
        target = np.where(right, half + place - before, begin + before)
        halved = np.empty_like(order)
        halved[target] = order
        order = halved
    return counts
