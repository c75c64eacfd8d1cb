"""Decide whether a challenger may replace the champion on the same test images.

One figure decides; the others may only veto.

``retrain.select_by`` decides, by the 95 % interval of challenger less champion and a margin δ (an
interval held against a non-inferiority margin: Piaggio et al., "Reporting of noninferiority and
equivalence randomized trials", JAMA 308, 2012):

=====================  =========================================================================
better                 lower end > 0, of a pixel figure > 0.001
not_worse              lower end >= -δ, or the same scores on every image
worse                  upper end < -δ
not_enough_evidence    otherwise; also with too few images, or where the figure is undefined
=====================  =========================================================================

``paired_bootstrap`` describes the interval. Pixel figures are those of a threshold grid, and no
difference that the grid may have made is ``better``. A limit of resampling: two detectors without a
single error differ by 0 in every resample, with ten images as with a thousand, and the answer is
``not_worse``. Resampling says nothing about images that are harder than the test images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

import numpy as np

from stillwatch.comparison.paired_bootstrap import Candidate, PairedFigure, paired_figures
from stillwatch.evaluation.bootstrap import Interval
from stillwatch.evaluation.pixel_metrics import GridCounts
from stillwatch.settings import GateSettings, SelectBy

Answer = Literal["better", "not_worse", "worse", "not_enough_evidence"]

MIN_IMAGES = 10
"""Least number of images of each kind that a figure needs. With fewer the intervals are too narrow:
in simulations they held the true AUROC difference in 94 of 100 cases with 40 normals and 40
anomalies, in 90 with 10 of each, in 86 with 8 and in 76 with 5."""
_ROUNDING = 1e-9
"""An interval may pass its margin by this much through floating-point rounding."""
_OF_GRID = 1e-3
"""Largest error of a difference of pixel figures that are computed on threshold grids."""
_PIXEL_FIGURES = frozenset({"pixel_auroc", "pixel_ap", "aupro"})
_LOWER_IS_BETTER = frozenset({"false_alarm_rate"})


@dataclass(frozen=True)
class MetricDifference(PairedFigure):
    """One figure of the comparison."""

    margin: float
    """δ for the figure that decides, the veto margin for another figure."""
    vetoes: bool
    """The figure does not decide, and its whole interval is worse than the margin allows."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds per image of both detectors on one machine: medians over batches."""

    champion_ms: float
    challenger_ms: float
    interval: Interval | None
    """95 % of the challenger's median, by order statistics; None with fewer than six batches."""
    budget_ms: float | None
    within_budget: bool
    """The challenger's median is within the budget; true without a budget."""

    @property
    def surely_over_budget(self) -> bool:
        """The whole interval is above the budget: more than a moment of load on the machine."""
        if self.budget_ms is None or self.interval is None:
            return False
        return self.interval[0] > self.budget_ms


@dataclass(frozen=True)
class Comparison:
    """Result of the comparison of a challenger with the champion."""

    answer: Answer
    """From ``select_by`` alone."""
    select_by: str
    winner: str
    """The challenger's detector."""
    detectors: tuple[str, ...]
    """The detectors among which the winner was chosen."""
    differences: dict[str, MetricDifference]
    """``select_by`` and the figures that may veto, as far as they are defined."""
    latency: Latency
    vetoes: tuple[str, ...]
    """Figures that forbid an automatic promotion; ``latency`` may be one."""
    refused: bool
    """The answer is ``worse``, or a veto rests neither on too few images nor on a latency that may
    be within the budget. Then no person may approve the promotion."""
    identical: bool
    """The same scores, verdicts and pixel counts on every image."""
    lacking: tuple[str, ...]
    """Kinds of images of which there are too few, one phrase each."""
    normals: int
    """Number of normal test images."""
    anomalies: int
    dropped: int
    """Test images left out because a detector was trained or calibrated on them."""
    groups: int = 0
    """Number of groups that the images are of; 0 without groups."""

    @property
    def promotable(self) -> bool:
        """The answer is ``better`` or ``not_worse`` and nothing vetoes."""
        return self.answer in ("better", "not_worse") and not self.vetoes

    @property
    def sentence(self) -> str:
        """The answer, its reason and the vetoes, as one sentence."""
        parts = [f"{self.answer}: {self._reason()}"]
        parts += [f"vetoed by {self._veto(name)}" for name in self.vetoes]
        if self.dropped:
            parts.append(
                f"test images left out, because a detector was trained on them: {self.dropped}"
            )
        if 0 < self.groups < self.normals + self.anomalies:
            parts.append(
                f"the images are of {self.groups} groups, and intervals that count images as "
                "independent are too narrow"
            )
        return "; ".join(parts) + "."

    def record(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self) | {"promotable": self.promotable, "sentence": self.sentence}

    def _reason(self) -> str:
        if self.lacking:
            return f"{self.select_by} cannot decide with {' and '.join(self.lacking)}"
        decides = self.differences[self.select_by]
        figures = (
            f"{self.select_by} of {self.winner} is {decides.challenger:.3f} and the champion's "
            f"{decides.champion:.3f} on {self.normals} normals and {self.anomalies} anomalies"
        )
        if self.identical:
            return f"{figures}, with the same scores on every image"
        chosen = f", {decides.optimism:.3f} off for the choice" if decides.optimism > 0.0005 else ""
        limit = f"{0 - decides.margin:g}"
        meaning = {
            "better": "above 0",
            "not_worse": f"not below {limit}",
            "worse": f"below {limit}",
            "not_enough_evidence": f"on both sides of {limit}",
        }[self.answer]
        return (
            f"{figures}, a difference of {decides.difference:+.3f} (95 % interval "
            f"{_between(decides.interval)}{chosen}), which is {meaning}"
        )

    def _veto(self, name: str) -> str:
        if name == "latency":
            took, allowed = self.latency.challenger_ms, self.latency.budget_ms
            sure = self.latency.interval
            between = "too few batches for an interval"
            if sure is not None:
                between = f"95 % interval {sure[0]:.1f} to {sure[1]:.1f}"
            return f"latency ({took:.1f} ms per image, {between}, {allowed:g} allowed)"
        difference = self.differences[name]
        return f"{name} ({_between(difference.interval)}, {difference.margin:g} allowed)"


def compare(
    champion: Candidate,
    challengers: Sequence[Candidate],
    *,
    select_by: SelectBy,
    settings: GateSettings,
    seed: int = 0,
    dropped: int = 0,
    winner: str | None = None,
) -> Comparison:
    """Choose the challenger among all that a retraining trained and compare it with the champion.

    Args:
        champion: measured anew, on the same images as the challengers.
        challengers: at least one; several of one detector are its seeds, the first of which would
            be promoted. Of equally good detectors the first wins.
        select_by: the figure that chooses and decides.
        settings: margins, number of resamples, latency budget.
        seed: of the resamples; same seed, same comparison.
        dropped: from ``unseen``; only reported.
        winner: the detector that was chosen already; None: chosen here.

    Raises:
        ValueError: the candidates did not inspect the same images, or only some have masks.
    """
    challenger, figures = paired_figures(
        champion,
        challengers,
        select_by=select_by,
        resamples=settings.resamples,
        seed=seed,
        winner=winner,
    )
    margins: dict[str, float] = settings.veto_margins.model_dump()
    margins[select_by] = settings.margin
    differences = {
        name: _with_margin(figures[name], name, margin, decides=name == select_by)
        for name, margin in margins.items()
        if name in figures
    }
    latency = _latency(champion, challenger, settings.latency_budget_ms)
    vetoes = [name for name, difference in differences.items() if difference.vetoes]
    identical = _identical(champion, challenger)
    lacking = _lacking(champion, select_by)
    firm = any(not _lacking(champion, name) for name in vetoes) or latency.surely_over_budget
    if select_by not in differences:
        lacking = lacking or ("no defect-free pixel",)
    elif identical:
        lacking = ()  # equal on every image: nothing is estimated
    anomalies = int(np.count_nonzero(champion.anomalous))
    answer = _answer(differences, select_by, identical=identical, lacking=lacking)
    return Comparison(
        answer=answer,
        select_by=select_by,
        winner=challenger.detector,
        detectors=tuple(dict.fromkeys(candidate.detector for candidate in challengers)),
        differences=differences,
        latency=latency,
        vetoes=(*vetoes, *([] if latency.within_budget else ["latency"])),
        refused=answer == "worse" or firm,
        identical=identical,
        lacking=lacking,
        normals=len(champion.paths) - anomalies,
        anomalies=anomalies,
        dropped=dropped,
        groups=champion.groups,
    )


def answer_from(interval: Interval, margin: float, error: float = _ROUNDING) -> Answer:
    """The answer that the interval of a difference gives; higher is better.

    Args:
        interval: of challenger less champion.
        margin: δ >= 0.
        error: of the figures themselves; the lower end must be above it for ``better``.
    """
    low, high = interval
    if low > error:
        return "better"
    if low >= -margin - _ROUNDING:
        return "not_worse"
    if high < -margin - _ROUNDING:
        return "worse"
    return "not_enough_evidence"


def _answer(
    differences: dict[str, MetricDifference],
    select_by: str,
    *,
    identical: bool,
    lacking: tuple[str, ...],
) -> Answer:
    if lacking:
        return "not_enough_evidence"
    if identical:
        return "not_worse"
    decides = differences[select_by]
    error = _OF_GRID if select_by in _PIXEL_FIGURES else _ROUNDING
    return answer_from(decides.interval, decides.margin, error)


def _with_margin(
    figure: PairedFigure, name: str, margin: float, *, decides: bool
) -> MetricDifference:
    low, high = figure.interval
    gain = (-high, -low) if name in _LOWER_IS_BETTER else (low, high)
    vetoes = not decides and answer_from(gain, margin) == "worse"
    return MetricDifference(**vars(figure), margin=margin, vetoes=vetoes)


def _latency(champion: Candidate, challenger: Candidate, budget: float | None) -> Latency:
    took = median(challenger.batch_ms)
    return Latency(
        champion_ms=median(champion.batch_ms),
        challenger_ms=took,
        interval=_median_interval(challenger.batch_ms),
        budget_ms=budget,
        within_budget=budget is None or took <= budget,
    )


def _median_interval(values: Sequence[float]) -> Interval | None:
    """Exact 95 % interval of the median for any distribution; None with too few values."""
    from scipy.stats import quantile_test  # imports for most of a second

    interval = quantile_test(values, q=median(values)).confidence_interval(0.95)
    if np.isnan([interval.low, interval.high]).any():
        return None
    return float(interval.low), float(interval.high)


def _identical(champion: Candidate, challenger: Candidate) -> bool:
    return (
        np.array_equal(champion.scores, challenger.scores)
        and np.array_equal(champion.rejected, challenger.rejected)
        and _same_counts(champion.counts, challenger.counts)
    )


def _same_counts(one: GridCounts | None, other: GridCounts | None) -> bool:
    if one is None or other is None:
        return one is other
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(np.array_equal(*pair) for pair in pairs)


def _lacking(candidate: Candidate, figure: str) -> tuple[str, ...]:
    """The kinds of images of which a figure needs more."""
    normals = int(np.count_nonzero(~candidate.anomalous))
    anomalies = len(candidate.paths) - normals
    if figure == "false_alarm_rate":
        there = {"normals": normals}
    elif figure == "recall":
        there = {"anomalies": anomalies}
    elif figure.startswith("image"):
        there = {"normals": normals, "anomalies": anomalies}
    else:
        counts = candidate.counts
        there = {"masked anomalies": 0 if counts is None else int((counts.regions > 0).sum())}
    return tuple(f"{n} {kind} ({MIN_IMAGES} needed)" for kind, n in there.items() if n < MIN_IMAGES)


def _between(interval: Interval) -> str:
    return f"{interval[0]:+.3f} to {interval[1]:+.3f}"
