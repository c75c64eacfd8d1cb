"""Charts of a detector's scores, rates and losses."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from stillwatch.bundle import EpochLosses
from stillwatch.calibration import Threshold
from stillwatch.pictures.style import (
    BLUE,
    GREEN,
    HAIRLINE,
    INK,
    MUTED,
    VERMILLION,
    clean,
    heading,
    new_figure,
    plain_log_ticks,
)

_BINS = 40
_LOG_RATIO = 8.0


def score_histogram(
    normal_scores: ArrayLike,
    anomaly_scores: ArrayLike,
    calibration_scores: ArrayLike,
    *,
    reject: Threshold,
    review: Threshold,
    title: str,
    synthetic: bool = False,
) -> Figure:
    """Draw the image scores of three groups above one another, cut by both thresholds.

    Args:
        normal_scores: (N,) of the test normals; may be empty.
        anomaly_scores: (M,) of the test anomalies; may be empty.
        calibration_scores: (n,) of the calibration normals.
        reject: the threshold above which an image is rejected.
        review: the threshold above which a person looks.
        title: above the figure.
        synthetic: the anomalies are made, not photographed; the picture says so.
    """
    anomalies = "test anomalies" + (" (synthetic)" if synthetic else "")
    groups = [
        ("calibration normals", MUTED, np.asarray(calibration_scores, dtype=np.float64)),
        ("test normals", BLUE, np.asarray(normal_scores, dtype=np.float64)),
        (anomalies, VERMILLION, np.asarray(anomaly_scores, dtype=np.float64)),
    ]
    groups = [group for group in groups if len(group[2])]
    edges, logarithmic = _score_bins(
        np.concatenate([scores for _, _, scores in groups] + [[reject.value, review.value]])
    )
    figure = _figure(7.2, 1.5 + 1.25 * len(groups), title, synthetic)
    strips = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, colour, scores) in zip(strips, groups, strict=True):
        clean(axes).hist(scores, bins=edges.tolist(), color=colour)
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        above = int(np.count_nonzero(scores > reject.value))
        axes.set_title(
            f"{name}: {above} of {len(scores)} rejected", loc="left", fontsize=9, color=colour
        )
        for threshold, word, style in ((review, "review", (0, (3, 2))), (reject, "reject", "-")):
            label = f"{word} above {threshold.value:.3g} (α = {threshold.alpha:g})"
            axes.axvline(threshold.value, color=INK, linewidth=1.3, linestyle=style, label=label)
    if logarithmic:
        strips[-1].set_xscale("log")
        plain_log_ticks(strips[-1].xaxis, edges[0], edges[-1])
    strips[-1].set_xlabel(f"image score{', log scale' if logarithmic else ''}")
    strips[len(groups) // 2].set_ylabel("images")
    handles, labels = strips[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2, frameon=False, fontsize=9)
    return figure


def roc_curve(
    fpr: ArrayLike,
    tpr: ArrayLike,
    auroc: float,
    interval: tuple[float, float] | None = None,
    *,
    title: str,
    synthetic: bool = False,
) -> Figure:
    """Draw an ROC curve.

    Args:
        fpr: (T,) false-positive rates in [0, 1], ascending.
        tpr: (T,) true-positive rates in [0, 1].
        auroc: area under the curve.
        interval: 95 % interval of ``auroc``.
        title: above the figure.
        synthetic: the anomalies are made, not photographed; the picture says so.
    """
    figure = _figure(4.8, 4.8, title, synthetic)
    axes = clean(figure.subplots())
    axes.plot([0, 1], [0, 1], color=HAIRLINE, linewidth=1, zorder=1)
    axes.plot(fpr, tpr, color=BLUE, linewidth=2, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("false-positive rate")
    axes.set_ylabel("true-positive rate")
    axes.text(0.97, 0.06, _area("AUROC", auroc, interval), ha="right", color=INK)
    return figure


def pro_curve(
    fpr: ArrayLike,
    pro: ArrayLike,
    aupro: float,
    interval: tuple[float, float] | None = None,
    *,
    title: str,
    limit: float = 0.3,
    synthetic: bool = False,
) -> Figure:
    """Draw a per-region-overlap curve up to the limit to which its area is taken.

    Args:
        fpr: (T,) pixel false-positive rates in [0, 1], ascending.
        pro: (T,) mean overlap of the defect regions in [0, 1].
        aupro: area under the curve up to ``limit``, divided by ``limit``.
        interval: 95 % interval of ``aupro``.
        title: above the figure.
        limit: largest false-positive rate that counts.
        synthetic: the anomalies are made, not photographed; the picture says so.
    """
    rates, overlaps = np.asarray(fpr, dtype=np.float64), np.asarray(pro, dtype=np.float64)
    inside = rates <= limit
    x = np.append(rates[inside], limit)
    y = np.append(overlaps[inside], np.interp(limit, rates, overlaps))
    figure = _figure(4.8, 4.8, title, synthetic)
    axes = clean(figure.subplots())
    axes.fill_between(x, y, color=GREEN, alpha=0.15, linewidth=0)
    axes.plot(x, y, color=GREEN, linewidth=2, clip_on=False)
    axes.set(xlim=(0, limit), ylim=(0, 1), box_aspect=1)
    axes.set_xlabel("pixel false-positive rate")
    axes.set_ylabel("per-region overlap")
    name = f"AUPRO to {limit * 100:g} %"
    axes.text(limit * 0.97, 0.06, _area(name, aupro, interval), ha="right", color=INK)
    return figure


def loss_curve(
    epochs: Sequence[EpochLosses], kept_epochs: Mapping[str, int], *, title: str
) -> Figure:
    """Draw training and validation loss, one panel per phase, and mark the epoch that was kept.

    Args:
        epochs: in the order of training.
        kept_epochs: phase -> 0-based epoch whose weights were kept.
        title: above the figure.
    """
    phases = list(dict.fromkeys(report.phase for report in epochs))
    figure = _figure(max(5.6, 4.2 * len(phases)), 3.6, title, synthetic=False)
    panels = figure.subplots(1, len(phases), squeeze=False)[0]
    for axes, phase in zip(panels, phases, strict=True):
        reports = [report for report in epochs if report.phase == phase]
        _draw_losses(clean(axes), reports, kept_epochs.get(phase))
        axes.set_title(phase, loc="left", fontsize=9, color=MUTED)
        axes.set_xlabel("epoch")
    panels[0].set_ylabel("loss")
    return figure


def _figure(width: float, height: float, title: str, synthetic: bool) -> Figure:
    figure = new_figure(width, height)
    figure.suptitle(
        heading(title, synthetic, width),
        x=0.02,
        ha="left",
        fontsize=11,
        fontweight="bold",
        color=INK,
    )
    return figure


def _score_bins(scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Return bin edges, and whether a log scale is needed beside a few large scores."""
    low, high = float(scores.min()), float(scores.max())
    if high <= low:
        return np.linspace(low - 0.5, low + 0.5, _BINS + 1), False
    if low > 0 and high / float(np.median(scores)) > _LOG_RATIO:
        edges = np.geomspace(low, high, _BINS + 1)
        edges[0], edges[-1] = low, high
        return edges, True
    return np.linspace(low, high, _BINS + 1), False


def _draw_losses(axes: Axes, reports: Sequence[EpochLosses], kept: int | None) -> None:
    epochs = [report.epoch + 1 for report in reports]
    train = [report.train_loss for report in reports]
    validation = [report.validation_loss for report in reports]
    axes.plot(epochs, train, color=MUTED, linewidth=1.4, label="training normals")
    axes.plot(epochs, validation, color=BLUE, linewidth=1.8, label="validation normals")
    for report in reports:
        if report.epoch == kept:
            axes.plot(
                report.epoch + 1,
                report.validation_loss,
                "o",
                color=VERMILLION,
                clip_on=False,
                label=f"kept: epoch {report.epoch + 1}",
            )
    low, high = min(*train, *validation), max(*train, *validation)
    if low > 0 and high / low > _LOG_RATIO:
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis, low, high)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend(frameon=False, fontsize=9)


def _area(name: str, value: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return f"{name} {value:.3f}"
    return f"{name} {value:.3f}\n95 % interval {interval[0]:.3f} to {interval[1]:.3f}"
