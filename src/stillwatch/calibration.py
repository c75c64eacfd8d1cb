"""Calibrate thresholds with a finite-sample false-alarm bound on held-out normals.

Split conformal prediction (Vovk, Gammerman & Shafer, *Algorithmic Learning in a Random World*,
2005; Vovk, "Conditional validity of inductive conformal predictors", ACML 2012, for the
Beta-distributed rate of one calibration set). With n exchangeable normals the threshold for the
false-alarm rate alpha is their ceil((n+1)(1-alpha))-th smallest score. Order statistics only:
nothing is fitted.

Scores are float32 numbers. A verdict and a p-value from the same calibration scores say the same
thing: ``s > threshold.value`` holds exactly when ``p_value(s) <= threshold.bound``, ties included,
and ``threshold.bound <= alpha``.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillwatch.errors import CalibrationError

Verdict = Literal["pass", "review", "reject"]


@dataclass(frozen=True)
class Threshold:
    """A threshold on the raw score, with its false-alarm bound."""

    value: float
    """The score of one calibration image, exact in float32."""
    alpha: float
    """The requested false-alarm rate."""
    n: int
    """Number of calibration normals."""
    rank: int
    """``value`` is the rank-th smallest calibration score, 1-based."""
    bound: float
    """(n+1-rank)/(n+1) <= alpha: an exchangeable normal is above ``value`` with at most this
    probability, on average over draws of the calibration set."""
    rate_95: float
    """Upper 95 % confidence bound of the false-alarm rate of this threshold."""

    def without_repeats(self, repeats: int) -> "Threshold":
        """The same value, with the bounds that hold where ``repeats`` of the images do not count.

        At worst all of these are up to ``value``: among the others it is then the
        (rank - repeats)-th smallest score or a higher one. The new rank 0 bounds nothing.
        """
        return _bounded(self.value, self.alpha, self.n - repeats, max(self.rank - repeats, 0))


@dataclass(frozen=True)
class Calibration:
    """The two thresholds and the calibration scores."""

    scores: tuple[float, ...]
    """Scores of the calibration normals, ascending."""
    reject: Threshold
    review: Threshold


def calibrate(scores: ArrayLike, *, alpha_reject: float, alpha_review: float) -> Calibration:
    """Set both thresholds from the scores of held-out normals.

    Args:
        scores: (n,) finite image scores, one per calibration normal, in any order; float32.
        alpha_reject: false-alarm rate of the verdict reject, in (0, 1).
        alpha_review: rate at which a normal is not passed, in (0, 1), at least ``alpha_reject``.

    Raises:
        CalibrationError: too few images for an alpha (says how many are missing and which alpha is
            reachable), an alpha out of range, or scores that are not finite.
    """
    if alpha_review < alpha_reject:
        raise CalibrationError(
            f"alpha_review ({alpha_review}) is below alpha_reject ({alpha_reject}): what is "
            "rejected is also not passed. Raise calibration.alpha_review."
        )
    ordered = np.sort(np.asarray(scores, dtype=np.float32).reshape(-1))
    if not np.isfinite(ordered).all():
        raise CalibrationError(
            f"{np.count_nonzero(~np.isfinite(ordered))} of {ordered.size} calibration scores are "
            "not finite numbers: the detector is broken. Train it again, with a smaller learning "
            "rate."
        )
    return Calibration(
        scores=tuple(ordered.tolist()),
        reject=_threshold(ordered, alpha_reject, "alpha_reject"),
        review=_threshold(ordered, alpha_review, "alpha_review"),
    )


def p_values(scores: ArrayLike, calibration_scores: ArrayLike) -> NDArray[np.float64]:
    """Conformal p-values (1 + #{c >= s}) / (n+1): small for images unlike the normals.

    Args:
        scores: (m,) image scores.
        calibration_scores: (n,) scores of the calibration normals, in any order.

    Returns:
        float64 (m,), in [1/(n+1), 1].
    """
    ordered = np.sort(np.asarray(calibration_scores, dtype=np.float32))
    above = ordered.size - np.searchsorted(ordered, np.asarray(scores, np.float32), side="left")
    return np.asarray((1 + above) / (ordered.size + 1), dtype=np.float64)


def verdict(score: float, calibration: Calibration) -> Verdict:
    """Judge one float32 image score: reject above one threshold, else review above the other."""
    if score > calibration.reject.value:
        return "reject"
    return "review" if score > calibration.review.value else "pass"


def images_needed(alpha: float) -> int:
    """Fewest calibration normals, ceil(1/alpha) - 1, that a false-alarm rate ``alpha`` needs.

    Raises:
        CalibrationError: ``alpha`` is not in (0, 1).
    """
    return math.ceil(1 / _exact(alpha, "alpha")) - 1


def reachable_alpha(n: int) -> float:
    """Smallest false-alarm rate that ``n`` calibration normals allow: 1/(n+1), rounded up."""
    scale: int = 1000 * 10 ** len(str(n + 1))
    return -(-scale // (n + 1)) / scale


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a proportion from ``k`` of ``n`` (Clopper & Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = _beta_quantile(k, n - k + 1, tail) if k > 0 else 0.0
    high = _beta_quantile(k + 1, n - k, 1 - tail) if k < n else 1.0
    return low, high


def chance_of_false_alarms(k: int, m: int, *, n: int, rank: int) -> float:
    """Probability of at least ``k`` false alarms among ``m`` new normals, if all are exchangeable.

    The number of false alarms has a beta-binomial distribution with a = n + 1 - rank and b = rank
    (Vovk, "Conditional validity of inductive conformal predictors", 2012).

    Args:
        k: false alarms.
        m: new normals.
        n: calibration normals.
        rank: of the calibration score that is the threshold, from 1 to ``n``.
    """
    from scipy.stats import betabinom  # imports for most of a second

    return float(betabinom(m, n + 1 - rank, rank).sf(k - 1))


def _threshold(ordered: NDArray[np.float32], alpha: float, name: str) -> Threshold:
    n = ordered.size
    rank = math.ceil((n + 1) * (1 - _exact(alpha, name)))
    if rank > n:
        raise CalibrationError(_too_few(n, alpha, name))
    return _bounded(float(ordered[rank - 1]), alpha, n, rank)


def _bounded(value: float, alpha: float, n: int, rank: int) -> Threshold:
    return Threshold(
        value=value,
        alpha=alpha,
        n=n,
        rank=rank,
        bound=(n + 1 - rank) / (n + 1),
        rate_95=_beta_quantile(n + 1 - rank, rank, 0.95) if rank else 1.0,
    )


def _too_few(n: int, alpha: float, name: str) -> str:
    missing = images_needed(alpha) - n
    reachable = f", or set calibration.{name} to {reachable_alpha(n)} or more" if n > 0 else ""
    return (
        f"{name} {alpha} needs {images_needed(alpha)} calibration normals and there are {n}: add "
        f"{missing} more good images that calibration can have{reachable}."
    )


def _exact(alpha: float, name: str) -> Fraction:
    """``alpha`` as the decimal in the settings: 0.05 and 19 images must give rank 19."""
    if not 0 < alpha < 1:
        raise CalibrationError(f"{name} is {alpha}: choose a rate between 0 and 1.")
    return Fraction(repr(float(alpha)))


def _beta_quantile(a: float, b: float, probability: float) -> float:
    from scipy.special import betaincinv  # imports for a quarter of a second

    return float(betaincinv(a, b, probability))
