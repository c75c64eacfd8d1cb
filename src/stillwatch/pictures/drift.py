"""Draw a stream of scores and the results of the drift tests."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from stillwatch.calibration import Calibration
from stillwatch.drift import StreamTests
from stillwatch.drift.windows import WINDOW
from stillwatch.pictures.style import BLUE, INK, MUTED, VERMILLION, clean, heading, new_figure

_BLOCKS = 120
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def drift_chart(
    scores: ArrayLike, calibration: Calibration, tests: StreamTests, *, title: str
) -> Figure:
    """Draw the scores of a stream over the calibration scores, and the martingale's capital below.

    Args:
        scores: (T,) of the stream, in the order of inspection; T >= 1.
        calibration: of the model version.
        tests: of this stream.
        title: above the figure.
    """
    values = np.asarray(scores, dtype=np.float64)
    figure = new_figure(8, 5.6)
    figure.suptitle(
        heading(title, synthetic=False, width=8),
        x=0.02,
        ha="left",
        fontsize=11,
        fontweight="bold",
        color=INK,
    )
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    _draw_scores(clean(above), values, calibration)
    _draw_capital(clean(below), tests)
    below.set_xlabel("image, in the order of inspection")
    below.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    alarm = tests.alarm
    if alarm is not None:
        for axes in (above, below):
            axes.axvline(alarm.image, color=VERMILLION, linewidth=1.3)
        if alarm.test == "windows":
            above.axvspan(alarm.image - WINDOW + 1, alarm.image, color=VERMILLION, alpha=0.15)
        above.set_title(
            f"alarm at image {alarm.image}, by the {alarm.test}",
            loc="right",
            fontsize=9,
            color=VERMILLION,
        )
    return figure


def _draw_scores(axes: Axes, values: NDArray[np.float64], calibration: Calibration) -> None:
    """Draw quantiles of blocks of images in place of a million points."""
    blocks = np.array_split(values, min(_BLOCKS, values.size))
    ends = np.cumsum([block.size for block in blocks])
    middles = ends - np.array([(block.size - 1) / 2 for block in blocks])
    low, quarter, median, three_quarters, high = np.array(
        [np.quantile(block, _QUANTILES) for block in blocks]
    ).T
    usual = np.quantile(calibration.scores, _QUANTILES)
    axes.axhspan(usual[0], usual[-1], color=MUTED, alpha=0.15, label="calibration, 8 of 10")
    axes.axhline(usual[2], color=MUTED, linewidth=1, label="calibration, median")
    axes.axhline(calibration.reject.value, color=INK, linewidth=1.3, label="reject above")
    axes.fill_between(
        middles, low, high, color=BLUE, alpha=0.15, linewidth=0, label="stream, 8 of 10"
    )
    axes.fill_between(middles, quarter, three_quarters, color=BLUE, alpha=0.3, linewidth=0)
    axes.plot(middles, median, color=BLUE, linewidth=1.6, label="stream, median")
    axes.set_ylabel("image score")
    axes.legend(frameon=False, fontsize=8, ncols=5, loc="upper left")
    axes.margins(y=0.25)


def _draw_capital(axes: Axes, tests: StreamTests) -> None:
    capital = np.concatenate([[0.0], tests.capital])
    axes.plot(np.arange(capital.size), capital, color=BLUE, linewidth=1.4)
    level = tests.capital_level
    axes.axhline(level, color=INK, linewidth=1.3, label=f"alarm: {10**level:.0f}-fold")
    axes.set_ylabel("capital, powers of 10")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
