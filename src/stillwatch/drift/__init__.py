"""Tests for drift in the stream of image scores of one model version.

Two tests, each with its own budget of false alarms: a martingale, quick where the stream changes at
some time (``stillwatch.drift.martingale``), and windows against the calibration scores, for a
stream that never was like them (``stillwatch.drift.windows``). Nothing is fitted and nothing is
remembered: the same scores and seed give the same answer, and more scores never take an alarm back.
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
    """The stream is not what the calibration images were, or no longer."""

    test: Literal["martingale", "windows"]
    image: int
    """The alarm is raised when this image of the stream is inspected; 1-based."""


@dataclass(frozen=True)
class StreamTests:
    """Both tests of one stream."""

    capital: NDArray[np.float64]
    """(T,) the martingale's, as its decimal logarithm, after each image."""
    capital_level: float
    """``capital`` that raises the alarm."""
    window_p_values: NDArray[np.float64]
    """(T // WINDOW,)"""
    window_levels: NDArray[np.float64]
    """(T // WINDOW,) p-values at or below raise the alarm."""

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """The first of each test, if there is one."""
        reached = np.flatnonzero(self.capital >= self.capital_level)[:1] + 1
        below = (np.flatnonzero(self.window_p_values <= self.window_levels)[:1] + 1) * WINDOW
        return (
            *(Alarm("martingale", int(image)) for image in reached),
            *(Alarm("windows", int(image)) for image in below),
        )

    @property
    def alarm(self) -> Alarm | None:
        """The first of both tests."""
        return min(self.alarms, key=lambda alarm: alarm.image, default=None)


def run_stream_tests(
    scores: ArrayLike, calibration_scores: ArrayLike, *, probability: float, seed: int
) -> StreamTests:
    """Test the stream so far.

    If the calibration and stream scores are exchangeable, each of the two tests ever alarms with at
    most ``probability``, however long the stream gets and however often it is tested.

    Args:
        scores: (T,) finite, of every inspected image of one model version, in the order of
            inspection, whatever its verdict: leaving some out voids the guarantee.
        calibration_scores: (n,) finite, of that version's calibration normals, in a fixed order.
        probability: of a false alarm, in (0, 1).
        seed: 0 or larger; breaks ties. The same for the same stream, and chosen without looking at
            the scores: who tries several seeds has several chances of a false alarm.
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
