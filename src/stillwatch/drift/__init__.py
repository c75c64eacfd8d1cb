"""Tests for drift in the stream of image scores of one model version.

Two tests, each with its own probability of a false alarm: a martingale, which detects a change of
the stream quickly (``stillwatch.drift.martingale``), and windows against the calibration scores,
which detect a stream that differs from its first image on (``stillwatch.drift.windows``). Nothing
is fitted or stored: the same scores and seed give the same answer, and further scores never remove
an alarm.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillwatch.drift.martingale import log_capital, ranks_among_earlier
from stillwatch.drift.windows import WINDOW, window_levels, window_p_values

__all__ = ["Alarm", "StreamTests", "run_stream_tests"]


@dataclass(frozen=True)
class Alarm:
    """The scores of the stream differ from the calibration scores, or have changed."""

    test: Literal["martingale", "windows"]
    image: int
    """Number of the image in the stream at which the alarm is raised; 1-based."""


@dataclass(frozen=True)
class StreamTests:
    """Results of both tests on one stream."""

    capital: NDArray[np.float64]
    """(T,) decimal logarithm of the martingale's capital after each image."""
    capital_level: float
    """Value of ``capital`` at which the alarm is raised."""
    window_p_values: NDArray[np.float64]
    """(T // WINDOW,) p-value of each window."""
    window_levels: NDArray[np.float64]
    """(T // WINDOW,) an alarm is raised by a p-value at or below its level."""

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """The first alarm of each test."""
        reached = np.flatnonzero(self.capital >= self.capital_level)[:1] + 1
        below = (np.flatnonzero(self.window_p_values <= self.window_levels)[:1] + 1) * WINDOW
        return (
            *(Alarm("martingale", int(image)) for image in reached),
            *(Alarm("windows", int(image)) for image in below),
        )

    @property
    def alarm(self) -> Alarm | None:
        """The earliest alarm; None without an alarm."""
        return min(self.alarms, key=lambda alarm: alarm.image, default=None)


def run_stream_tests(
    scores: ArrayLike, calibration_scores: ArrayLike, *, probability: float, seed: int
) -> StreamTests:
    """Test a stream of scores for drift.

    If the calibration and stream scores are exchangeable, each of the two tests ever alarms with at
    most ``probability``, however long the stream gets and however often it is tested.

    Args:
        scores: (T,) finite, of every inspected image of one model version, in the order of
            inspection, whatever its verdict: leaving some out voids the guarantee.
        calibration_scores: (n,) finite, of that version's calibration normals, in a fixed order.
        probability: of a false alarm, in (0, 1).
        seed: 0 or larger; breaks ties. The same for the same stream, and chosen without looking at
            the scores: each further seed is a further chance of a false alarm.
    """
    p_values = window_p_values(scores, calibration_scores, seed=seed)
    ranks = ranks_among_earlier(scores, calibration_scores, seed=seed)
    capital = log_capital(ranks, np.size(calibration_scores) + np.arange(1, ranks.size + 1))
    return StreamTests(
        capital=capital / np.log(10),
        capital_level=-float(np.log10(probability)),
        window_p_values=p_values,
        window_levels=window_levels(p_values.size, probability),
    )
