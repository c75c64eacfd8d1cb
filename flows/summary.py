"""What a retraining ended with, for the report, the Prefect page and the terminal."""

from collections.abc import Mapping

from flows.report import CategoryReport, DetectorReport, Interval, RetrainReport
from tasks.evaluate import DetectorResult
from tasks.register import Registration

FIGURES = (*("image_auroc", "image_ap", "pixel_auroc", "aupro", "false_alarm_rate", "recall"),)


def category_report(
    results: Mapping[str, DetectorResult], registration: Registration
) -> CategoryReport:
    """The report of a category whose winner is registered."""
    below = "; ".join(registration.below_floors)
    return CategoryReport(
        status="registered" if registration.created else "unchanged",
        reason=below or None,
        winner=registration.detector,
        model_version=registration.version,
        alias=registration.alias,
        selected=registration.selected,
        detectors={name: _detector_report(result) for name, result in results.items()},
    )


def failure_sentence(report: RetrainReport) -> str:
    """One sentence per failed category."""
    return " ".join(f"{name}: {reason}" for name, reason in report.failed.items())


def summary_rows(report: RetrainReport) -> list[dict[str, str]]:
    """Rows of the table artifact and of the terminal's table, one per category and detector."""
    rows = []
    for name, category in report.categories.items():
        if not category.detectors:
            rows.append({"category": name, "detector": "–", "outcome": category.reason or ""})
        rows += [
            _row(name, category, detector, one) for detector, one in category.detectors.items()
        ]
    return rows


def _row(name: str, category: CategoryReport, detector: str, one: DetectorReport) -> dict[str, str]:
    won = detector == category.winner
    version = f"stillwatch-{name}/{category.model_version}" if won else ""
    return {
        "category": name,
        "detector": detector,
        "image AUROC": _figure(one.image_auroc, one.image_auroc_ci, synthetic=one.synthetic),
        "AUPRO": _figure(one.aupro, one.aupro_ci, synthetic=one.synthetic),
        "false alarms": _figure(one.false_alarm_rate, one.false_alarm_rate_ci),
        "recall": _figure(one.recall, None, synthetic=one.synthetic),
        "ms/image": f"{one.ms_per_image:.0f}",
        "trained": "reused" if one.reused else f"{one.train_seconds:.0f} s",
        "model": f"{version} {category.alias or ''}".strip(),
    }


def _detector_report(result: DetectorResult) -> DetectorReport:
    figures: dict[str, float | None] = {name: result.metrics.get(name) for name in FIGURES}
    intervals: dict[str, Interval | None] = {
        f"{name}_ci": result.intervals.get(name) for name in FIGURES
    }
    return DetectorReport.model_validate(
        {
            **figures,
            **intervals,
            "threshold": result.threshold,
            "alpha": result.alpha,
            "n_calibration": result.n_calibration,
            "train_seconds": result.train_seconds,
            "ms_per_image": result.ms_per_image,
            "reused": result.reused,
            "synthetic": result.synthetic,
            "run_id": result.run_id,
        }
    )


def _figure(value: float | None, interval: Interval | None, *, synthetic: bool = False) -> str:
    if value is None:
        return "–"
    text = f"{value:.3f}"
    if interval is not None:
        text += f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    return f"{text} synthetic" if synthetic else text
