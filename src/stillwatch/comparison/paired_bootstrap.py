"""Paired bootstrap: 95 % intervals of the differences between detectors on the same images.

Paired percentile bootstrap (Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, chapters
13 and 16): all detectors are judged on the same resamples of the images, so that what makes an
image hard for all of them cancels out of a difference.

A challenger that is the best of K detectors *on these images* looks better than it is. Choosing the
best in every resample and taking the percentiles would count this advantage twice, once from the
images and once from the resample: of six equal detectors the best was then called better than an
equal champion in 30 of 100 simulated retrainings. The choice is repeated nevertheless, to measure
its gain: in each resample the detector that wins there gains something on its own figure over all
images, and the challenger gains something on its own. The mean of the first less the second is the
optimism of the choice (Efron, "Estimating the error rate of a prediction rule", JASA 78, 1983;
Efron & Tibshirani, chapter 17), and the challenger's interval is moved by it. It is exactly zero
for one detector, and for a challenger that wins every resample. In the same simulations 2 to 5 of
100 were then wrongly called better, where 2.5 are promised.

Recall and false-alarm rate are counts of few images that differ, for which percentile intervals are
too narrow: their intervals are those of ``paired_rates``, moved by the same optimism. That interval
ignores the strata, so it is too wide rather than too narrow.

An interval is about other images of the same kinds in the same proportions. The trained detectors,
their seeds and their thresholds are fixed. Images count as independent of each other: where several
are of one group, the interval is too narrow.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from stillwatch.comparison.paired_rates import rate_difference_interval
from stillwatch.evaluation import bootstrap
from stillwatch.evaluation.bootstrap import Interval
from stillwatch.evaluation.counts import Floats
from stillwatch.evaluation.evaluation import NORMAL, InspectedTest, TestImages
from stillwatch.evaluation.pixel_metrics import GridCounts, any_defect, grid_counts
from stillwatch.settings import SelectBy

RARE = 5
"""Defect types with fewer test images are joined into one stratum, until it has this many."""


@dataclass(frozen=True)
class Candidate:
    """Scores, verdicts and pixel counts of one trained detector on the test images."""

    detector: str
    """Name of the method; candidates of one method differ in their seed."""
    paths: tuple[str, ...]
    defect_types: tuple[str, ...]
    """(N,), ``good`` for normals."""
    scores: Floats
    """(N,) finite image scores."""
    rejected: NDArray[np.bool_]
    """(N,) verdict is ``reject``, by its own threshold."""
    counts: GridCounts | None
    """On its own threshold grid; None without masks."""
    batch_ms: tuple[float, ...]
    """Milliseconds per image of each batch."""
    groups: int = 0
    """Number of groups that the images are of; 0 without groups."""

    @property
    def anomalous(self) -> NDArray[np.bool_]:
        """(N,) true for anomalies."""
        return np.array([kind != NORMAL for kind in self.defect_types], dtype=bool)


@dataclass(frozen=True)
class PairedFigure:
    """One figure of the champion and of the challenger on the same images."""

    champion: float
    challenger: float
    difference: float
    """Challenger less champion."""
    interval: Interval
    """95 % interval of the difference, moved by the optimism."""
    optimism: float
    """Estimate of how much the choice among several detectors adds to the difference by chance."""
    seeds: tuple[float, ...]
    """The figure for each seed of the challenger's detector; the first is the challenger."""


def unseen(md5s: Sequence[str], training_md5s: Collection[str]) -> tuple[NDArray[np.bool_], int]:
    """The test images on which no detector was trained or calibrated, and how many are dropped.

    Args:
        md5s: (N,) of the test images' bytes.
        training_md5s: of all images that champion or challengers had in train, validation or
            calibration.

    Returns:
        (N,) bool, true for images to keep, and the number of the others.
    """
    kept = np.array([md5 not in training_md5s for md5 in md5s], dtype=bool)
    return kept, int(np.count_nonzero(~kept))


def measured(
    detector: str,
    inspected: InspectedTest,
    test: TestImages,
    kept: NDArray[np.bool_],
) -> Candidate:
    """The candidate from what its detector gave for the test images.

    Args:
        detector: name of its method.
        inspected: the current test images, of this very day for the champion, too.
        test: their masks and the pixels that count, today's for the champion, too.
        kept: (N,) from ``unseen``.
    """
    rows = list(compress(inspected.rows, kept))
    counts = None
    if test.masks is not None:
        masks = list(compress(test.masks, kept))
        counted = None if test.counted is None else list(compress(test.counted, kept))
        if any_defect(masks, counted):
            counts = grid_counts(list(compress(inspected.maps, kept)), masks, counted)
    return Candidate(
        detector=detector,
        paths=tuple(row["path"] for row in rows),
        defect_types=tuple(row["defect_type"] for row in rows),
        scores=np.array([row["score"] for row in rows], dtype=np.float64),
        rejected=np.array([row["verdict"] == "reject" for row in rows], dtype=bool),
        counts=counts,
        batch_ms=inspected.batch_ms,
        groups=len({test.groups.get(row["path"], row["path"]) for row in rows if test.groups}),
    )


def paired_figures(
    champion: Candidate,
    challengers: Sequence[Candidate],
    *,
    select_by: SelectBy,
    resamples: int,
    seed: int,
    winner: str | None = None,
) -> tuple[Candidate, dict[str, PairedFigure]]:
    """Choose the challenger and compare each of its figures with the champion's.

    The detector with the highest mean of ``select_by`` over its seeds wins; of equal ones, and
    where that figure is undefined, the first; unless ``winner`` says who has won. The challenger is
    the winner's first seed: which seed goes into production is settled before the test images are
    looked at, and its own figures are compared, for it is the one that would be promoted.

    Args:
        champion: the model in production.
        challengers: all that this retraining trained, at least one.
        select_by: figure of the choice.
        resamples: number B of resamples.
        seed: same seed, same resamples.
        winner: the detector that won already by its exact figures on all test images: grid figures,
            or fewer images, may order near equals otherwise. None: chosen here.

    Returns:
        The challenger, and ``image_auroc``, ``image_ap``, ``f1``, ``f1_oracle``, ``recall``,
        ``false_alarm_rate`` and with masks ``pixel_auroc``, ``pixel_ap``, ``aupro``, as far as they
        are defined. Pixel figures are those of the threshold grid, within 1e-3 of the exact ones.

    Raises:
        ValueError: the candidates did not inspect the same images, or only some have masks.
    """
    for other in challengers:
        _check_same_images(champion, other)
    drawn = bootstrap.resample_weights(_strata(champion.defect_types), resamples, seed)
    weights = np.concatenate([np.ones((1, drawn.shape[1])), drawn])  # row 0: all images, once
    of_champion = _figures(champion, weights)
    of_challengers = [_figures(challenger, weights) for challenger in challengers]
    seeds: dict[str, list[int]] = {}
    for index, challenger in enumerate(challengers):
        seeds.setdefault(challenger.detector, []).append(index)
    means = [
        np.mean([of_challengers[i][select_by] for i in members], axis=0)
        for members in seeds.values()
        if select_by in of_champion
    ]
    winners = _winners(np.array(means)) if means else np.zeros(len(weights), dtype=np.intp)
    if winner is not None:
        winners[0] = list(seeds).index(winner)
    members = list(seeds.values())[winners[0]]
    first_seeds = [members[0] for members in seeds.values()]
    challenger = challengers[members[0]]
    rates = _rate_intervals(champion, challenger)
    found = {
        name: _paired(
            values,
            np.array([of_challengers[i][name] for i in first_seeds]),
            winners,
            tuple(float(of_challengers[i][name][0]) for i in members),
            rates.get(name),
        )
        for name, values in of_champion.items()
    }
    return challenger, found


def _check_same_images(champion: Candidate, other: Candidate) -> None:
    if (champion.paths, champion.defect_types) != (other.paths, other.defect_types):
        raise ValueError(f"{other.detector} and the champion did not inspect the same test images")
    if (champion.counts is None) != (other.counts is None):
        raise ValueError(f"of {other.detector} and the champion only one was measured on masks")


def _strata(defect_types: Sequence[str]) -> list[str]:
    """Defect types, the rare ones as one, with the next larger types if they are too few together.

    A type with a single image would be in every resample exactly once, as if it were known without
    error. With twelve types of two images the intervals held the true AUROC difference in 88 of 100
    simulated cases when each type was a stratum, and in 94 with the rare ones together (collapsed
    strata: Cochran, *Sampling Techniques*, 1977, chapter 5A).
    """
    sizes = Counter(kind for kind in defect_types if kind != NORMAL)
    together: set[str] = set()
    images = 0
    for kind, size in sorted(sizes.items(), key=lambda one: (one[1], one[0])):
        if size >= RARE and (not together or images >= RARE):
            break
        together.add(kind)
        images += size
    # not the name of a folder
    return ["<rare>" if kind in together else kind for kind in defect_types]


def _figures(candidate: Candidate, weights: Floats) -> dict[str, Floats]:
    """Every figure that is defined on all images, (1+B,) each."""
    labels = candidate.anomalous
    figures = bootstrap.rejection_rates(labels, candidate.rejected, weights)
    if labels.any() and not labels.all():
        figures |= bootstrap.image_metrics(labels, candidate.scores, candidate.rejected, weights)
    if candidate.counts is not None:
        on_grid = bootstrap.grid_metrics(candidate.counts, weights)
        figures |= {name: values for name, values in on_grid.items() if np.isfinite(values[0])}
    return figures


def _rate_intervals(champion: Candidate, challenger: Candidate) -> dict[str, Interval]:
    """Of ``recall`` and ``false_alarm_rate``, as far as there are such images."""
    gained = challenger.rejected & ~champion.rejected
    lost = champion.rejected & ~challenger.rejected
    anomalous = champion.anomalous
    return {
        name: rate_difference_interval(
            int((gained & kind).sum()), int((lost & kind).sum()), int(kind.sum())
        )
        for name, kind in (("recall", anomalous), ("false_alarm_rate", ~anomalous))
        if kind.any()
    }


def _winners(values: Floats) -> NDArray[np.intp]:
    """(1+B,) row of the highest of (K, 1+B) figures; where they are undefined, that of column 0."""
    best: NDArray[np.intp] = values.argmax(axis=0)
    best[~np.isfinite(values).all(axis=0)] = best[0]
    return best


def _paired(
    champion: Floats,
    detectors: Floats,
    winners: NDArray[np.intp],
    seeds: tuple[float, ...],
    interval: Interval | None,
) -> PairedFigure:
    """Compare (1+B,) figures of the champion with those of the winner of (K, 1+B) detectors.

    Without an interval it is that of the resamples.
    """
    challenger = detectors[winners[0]]
    difference = challenger - champion
    defined = np.isfinite(difference)
    defined[0] = False
    low, high = interval or bootstrap.percentile_interval(difference[defined])
    winner_gains = detectors[winners, np.arange(len(winners))] - detectors[winners, 0]
    optimism = float(np.mean((winner_gains - (challenger - challenger[0]))[defined]))
    if np.array_equal(challenger, champion, equal_nan=True):
        optimism = 0.0  # the figures are equal on all images: no advantage by chance
    return PairedFigure(
        champion=float(champion[0]),
        challenger=float(challenger[0]),
        difference=float(difference[0]),
        interval=(low - optimism, high - optimism),
        optimism=optimism,
        seeds=seeds,
    )
