"""A conformal test martingale: has the stream of scores changed since it began?

Null hypothesis: the calibration scores and the stream's, in this order, are exchangeable, that is
every order of them is equally likely (drawn independently from one distribution, they are). Then
the p-values of ``online_p_values`` are independent and uniform on [0, 1], whatever the scores'
distribution (Vovk, Gammerman & Shafer, *Algorithmic Learning in a Random World*, 2005, theorem
8.2). Against the calibration scores alone they would not be independent: when these happen to lie
low, all p-values of a long stream are small, and a test that multiplies them alarms on nothing.

On such p-values one can bet: a density f on [0, 1] turns a capital of 1 into f(p), which is 1 on
average. Capital won by betting again and again is a martingale, and by Ville's inequality the
probability that it ever reaches 1/a is at most a (Vovk, Nouretdinov & Gammerman, "Testing
exchangeability on-line", ICML 2003; Vovk et al., "Retrain or not retrain: conformal test
martingales for change-point detection", COPA 2021). Here the first capital is divided among all
bets of ``BETS`` and all images at which to begin; what is put aside for image t is 1/(t(t+1)), so
that an unchanged past, however long, costs a delay of only about 2 ln t / D images, where D is what
the best bet wins on an image, as a logarithm.

What the guarantee needs: scores that are exchangeable. Neighbours in time that resemble each other
(batches, shifts of workers, a lamp that warms up) are not, and raise alarms although the line
is as it always was. So does a share of defective parts that rises. After a change the new scores
join those that later ones are compared with: evidence against a stream that has been the same from
its first image is soon no longer added to, and ``stillwatch.drift.windows`` is for that.
"""

from math import lgamma

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillwatch.drift.ranking import random_order, smaller_before

_TAILS = (0.1, 0.25, 0.5, 0.75, 2.0)
BETS: tuple[tuple[float, float], ...] = (
    *((a, 1.0) for a in _TAILS),
    *((1.0, a) for a in _TAILS),
    (0.5, 0.5),
    (3.0, 3.0),
)
"""The densities, Beta(a, b). The first five are power martingales, from sudden to slight: all but
the last bet on higher scores, that is on small p-values; the next five are their mirror images; the
last two bet on scores that spread more, or less, than before."""

_SMALLEST = 1e-12
"""Of p and of 1 - p, so that no bet wins infinitely much."""


def online_p_values(
    scores: ArrayLike, calibration_scores: ArrayLike, *, seed: int
) -> NDArray[np.float64]:
    """Rank each image among all before it: small where its score is high.

    p_t = (#{earlier scores > s_t} + u_t) / (n + t), where the n calibration scores are the first of
    the earlier ones, ties among scores are broken at random and u_t is uniform on [0, 1). A longer
    stream has the same p-values at its beginning. Takes O((n+T) log (n+T)).

    Args:
        scores: (T,) of all inspected images of one model version, in their order.
        calibration_scores: (n,) of that version's calibration normals, in a fixed order.
        seed: 0 or larger; chosen without looking at the scores.

    Returns:
        float64 (T,), in [0, 1).
    """
    n = np.size(calibration_scores)
    smaller = smaller_before(random_order(scores, calibration_scores, seed=seed))[n:]
    earlier = n + np.arange(smaller.size)
    uniform = np.random.default_rng([seed, 1]).random(smaller.size)
    return np.asarray((earlier - smaller + uniform) / (earlier + 1), dtype=np.float64)


def log_capital(p_values: ArrayLike) -> NDArray[np.float64]:
    """Natural logarithm of the capital after each p-value, beginning with a capital of 1.

    The capital is the mean over the bets f of R_t = sum_{s<=t} w_s S_t / S_{s-1} + sum_{s>t} w_s,
    where S_t = f(p_1) ... f(p_t) and w_s = 1/(s(s+1)): what was begun at s has grown by
    S_t / S_{s-1}, and 1/(t+1) has not been bet yet. The first sum, A_t, takes one step per image:
    A_t = f(p_t) (A_{t-1} + w_t).

    Args:
        p_values: (..., T), in [0, 1]; streams along the last axis.

    Returns:
        float64 (..., T). Under the null hypothesis exp of it ever reaches 1/a with probability at
        most a.
    """
    p = np.asarray(p_values, dtype=np.float64)
    image = np.arange(1, p.shape[-1] + 1)
    log_weight = -np.log(image) - np.log(image + 1)
    log_p = np.log(np.maximum(p, _SMALLEST))
    log_rest = np.log(np.maximum(1 - p, _SMALLEST))
    capital = np.broadcast_to(-np.log(image + 1), p.shape)
    for a, b in BETS:
        log_bet = _log_beta_density(a, b, log_p, log_rest)
        log_product = np.cumsum(log_bet, axis=-1)
        # A_t / S_t = A_{t-1} / S_{t-1} + w_t / S_{t-1}
        begun = np.logaddexp.accumulate(log_weight - (log_product - log_bet), axis=-1)
        capital = np.logaddexp(capital, log_product + begun - np.log(len(BETS)))
    return np.asarray(capital)


def _log_beta_density(
    a: float, b: float, log_p: NDArray[np.float64], log_rest: NDArray[np.float64]
) -> NDArray[np.float64]:
    scale = lgamma(a + b) - lgamma(a) - lgamma(b)
    return np.asarray(scale + (a - 1) * log_p + (b - 1) * log_rest)
