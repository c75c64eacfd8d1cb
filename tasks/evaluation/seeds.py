"""Mean and spread of a detector's figures over its seeds.

A detector is judged by the mean of its seeds, and the first seed goes into production. The best of
several seeds would look better on the test images than it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from stillwatch.tasks.evaluation.result import FIGURE_NAMES, DetectorResult


@dataclass(frozen=True)
class Spread:
    """One figure over the seeds of a detector."""

    mean: float
    half_range: float
    """Half the distance from the lowest to the highest; 0 for one seed."""

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half_range:.3f}"


def by_detector(results: Iterable[DetectorResult]) -> dict[str, list[DetectorResult]]:
    """Group results by detector, in the order of the results."""
    seeds: dict[str, list[DetectorResult]] = {}
    for result in results:
        seeds.setdefault(result.detector, []).append(result)
    return seeds


def spread(seeds: Sequence[DetectorResult], figure: str) -> Spread | None:
    """One figure over the seeds of one detector, at least one; None if a seed lacks the figure."""
    values = [result.metrics[figure] for result in seeds if figure in result.metrics]
    if len(values) < len(seeds):
        return None
    return Spread(fmean(values), (max(values) - min(values)) / 2)


def spreads(seeds: Sequence[DetectorResult]) -> dict[str, Spread]:
    """Every reported figure that all seeds of a detector have; empty for a single seed."""
    if len(seeds) == 1:
        return {}
    found = {figure: spread(seeds, figure) for figure in FIGURE_NAMES}
    return {figure: one for figure, one in found.items() if one is not None}


def spread_sentence(seeds: Sequence[DetectorResult]) -> str:
    """The spread of several seeds of a detector as a sentence; empty for one seed."""
    found = spreads(seeds)
    if not found:
        return ""
    figures = ", ".join(f"{FIGURE_NAMES[figure]} {one}" for figure, one in found.items())
    images = "synthetic anomalies" if seeds[0].synthetic else "the test images"
    return (
        f"The first of {len(seeds)} seeds. Mean ± half the range of all of them on {images}: "
        f"{figures}."
    )
