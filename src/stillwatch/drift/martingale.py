"""Conformal test martingale: detects a change within the stream of scores.

Null hypothesis: the calibration scores and the stream's, in this order, are exchangeable, that is
every order of them is equally likely (drawn independently from one distribution, they are). Then
the rank of each score among all before it, the calibration scores being the first of them, is
uniform and independent of the ranks before, whatever the scores' distribution (Vovk, Gammerman &
Shafer, *Algorithmic Learning in a Random World*, 2005, who speak of p-values: ranks divided by how
many are possible). Among the calibration scores alone the ranks would not be independent: when
these happen to lie low, all of a long stream's scores rank high, and a test that multiplies what it
wins alarms on nothing.

On such ranks one can bet: a density f on [0, 1] turns a capital of 1 into the mean of f over the
rank's cell [k/N, (k+1)/N], which is 1 on average over the N cells. (Usual is f of a p-value drawn
at random from the cell. The mean is what that gives on average: the same test without its noise.)
Capital won by betting again and again is a martingale, and by Ville's inequality the probability
that it ever reaches 1/a is at most a (Vovk, Nouretdinov & Gammerman, "Testing exchangeability
on-line", ICML 2003; Vovk et al., "Retrain or not retrain: conformal test martingales for
change-point detection", COPA 2021). Here the first capital is divided among all ``BETS`` and all
images at which to begin: the share of a bet that begins at image t is 1/(t(t+1)). An unchanged
past, however long, then costs a delay of only about 2 ln t / D images, where D is the logarithm of
what the best bet wins on an image.

What the guarantee needs: scores that are exchangeable. Neighbours in time that resemble each other
(batches, shifts of workers, a lamp that warms up) are not, and raise alarms although the line
is as it always was. So does a share of defective parts that rises. After a change the new scores
join those that later ones are compared with: evidence against a stream that has been the same from
its first image is soon no longer added to, and ``stillwatch.drift.windows`` is for that.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillwatch.drift.ranking import random_order, smaller_before

Values = NDArray[np.float64]
Distribution = Callable[[Values], Values]
"""The cumulative distribution function of a density on [0, 1]."""

_POWERS = (0.1, 0.25, 0.5, 0.75, 2.0)
_SYMMETRIC: tuple[Distribution, ...] = (
    lambda p: np.asarray(np.arcsin(np.sqrt(p)) * 2 / np.pi),
    lambda p: np.asarray(p**3 * (10 - 15 * p + 6 * p**2)),
)
BETS = 2 * len(_POWERS) + len(_SYMMETRIC)
"""Number of bets: power martingales, Beta(a, 1), which bet on scores that are higher than
before, from sudden to slight (with a = 2 on slightly lower ones); their mirror images, Beta(1, a);
Beta(1/2, 1/2) on scores that spread more than before, and Beta(3, 3) on scores that spread less."""


def ranks_among_earlier(
    scores: ArrayLike, calibration_scores: ArrayLike, *, seed: int
) -> NDArray[np.int64]:
    """How many earlier scores, those of calibration included, are higher; ties broken at random.

    A longer stream has the same ranks at its beginning. Takes O((n+T) log (n+T)).

    Args:
        scores: (T,) of all inspected images of one model version, in their order.
        calibration_scores: (n,) of that version's calibration normals, in a fixed order.
        seed: 0 or larger; chosen without looking at the scores.

    Returns:
        int64 (T,); the t-th, from 0, is in 0 .. n+t.
    """
    n = np.size(calibration_scores)
    lower = smaller_before(random_order(scores, calibration_scores, seed=seed))[n:]
    return np.asarray(n + np.arange(lower.size) - lower)


def log_capital(ranks: ArrayLike, cells: ArrayLike) -> Values:
    """Natural logarithm of the capital after each rank, beginning with a capital of 1.

    The capital is the mean over the bets of R_t = sum_{s<=t} w_s S_t / S_{s-1} + sum_{s>t} w_s,
    where S_t = e_1 ... e_t is what the bet has turned 1 into, and w_s = 1/(s(s+1)): what was begun
    at s has grown by S_t / S_{s-1}, and 1/(t+1) has not been bet yet. The first sum, A_t, takes one
    step per image: A_t = e_t (A_{t-1} + w_t).

    Args:
        ranks: (..., T) streams along the last axis; the t-th in 0 .. cells[t]-1.
        cells: (T,) how many ranks are possible.

    Returns:
        float64 (..., T). Where the ranks are uniform and independent, exp of it ever reaches 1/a
        with probability at most a.
    """
    rank, count = np.asarray(ranks, dtype=np.float64), np.asarray(cells, dtype=np.float64)
    image = np.arange(1, count.size + 1)
    log_weight = -np.log(image) - np.log(image + 1)
    capital = np.broadcast_to(-np.log(image + 1), rank.shape)
    for log_win in _log_wins(rank, count):
        log_product = np.cumsum(log_win, axis=-1)
        # A_t / S_t = A_{t-1} / S_{t-1} + w_t / S_{t-1}
        begun = np.logaddexp.accumulate(log_weight - (log_product - log_win), axis=-1)
        capital = np.logaddexp(capital, log_product + begun - np.log(BETS))
    return np.asarray(capital)


def _log_wins(rank: Values, count: Values) -> Iterator[Values]:
    """Logarithm of the factor that each bet wins on each image.

    Ranks are mirrored, not distributions: near 1 the difference of two of their values is lost.
    """
    mirrored = count - 1 - rank
    for power in _POWERS:
        for one in (rank, mirrored):
            yield _log_mean_density(partial(_power, power), one, count)
    for distribution in _SYMMETRIC:
        yield _log_mean_density(distribution, np.minimum(rank, mirrored), count)


def _power(power: float, p: Values) -> Values:
    return np.asarray(p**power)


def _log_mean_density(distribution: Distribution, rank: Values, count: Values) -> Values:
    mass = distribution((rank + 1) / count) - distribution(rank / count)
    return np.asarray(np.log(count * mass))
