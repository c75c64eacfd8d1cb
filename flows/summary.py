"""What a retraining ended with, for the report, the Prefect page and the terminal."""

from collections.abc import Mapping

from flows.report import CategoryReport, DetectorReport, Interval, RetrainReport
from tasks.detector_result import DetectorResult
from tasks.evaluation_note import threshold_sentences
from tasks.register import Registration

FIGURES = (*("image_auroc", "image_ap", "pixel_auroc", "aupro", "false_alarm_rate", "recall"),)


def category_report(
    results: Mapping[str, DetectorResult], registration: Registration
) -> CategoryReport:
    """The report of a category whose winner is registered."""
    return CategoryReport(
        status="registered" if registration.created else "unchanged",
        reason=registration.not_promoted or None,
        winner=registration.detector,
        model_version=registration.version,
        alias=registration.alias,
        selected=registration.selected,
        answer=registration.answer,
        comparison=registration.comparison or None,
        approval=registration.approval,
        thresholds=threshold_sentences(results[registration.detector]),
        detectors={name: _detector_report(result) for name, result in results.items()},
    )


def failure_sentence(report: RetrainReport) -> str:
    """One sentence per failed category."""
    return " ".join(f"{name}: {reason}" for name, reason in report.failed.items())


def short_rows(report: RetrainReport) -> list[dict[str, str]]:
    """Rows of the terminal's table, one per trained detector."""
    return [
        {"category": name} | _row(category, detector, one)
        for name, category in report.categories.items()
        for detector, one in category.detectors.items()
    ]


def full_rows(report: RetrainReport, mlflow_address: str) -> list[dict[str, str]]:
    """Rows of the table artifact: as the terminal's, with intervals, links and failures."""
    rows = []
    for name, category in report.categories.items():
        if category.status == "failed":
            rows.append({"category": name, "outcome": category.reason or ""})
        rows += [
            {"category": name, "outcome": _outcome(category, detector)}
            | _row(category, detector, one)
            | _intervals(one)
            | {
                "ms per image": f"{one.ms_per_image:.0f}",
                "data version": report.data_version or "",
                "MLflow run": f"{mlflow_address}/#/runs/{one.run_id}",
            }
            for detector, one in category.detectors.items()
        ]
    return rows


def _outcome(category: CategoryReport, detector: str) -> str:
    if detector != category.winner:
        return "not chosen"
    said = {"pending": ", waits for approval", "refused": ", refused by the gate", None: ""}
    return category.status + said[category.approval]


def _row(category: CategoryReport, detector: str, one: DetectorReport) -> dict[str, str]:
    won = detector == category.winner
    return {
        "detector": detector,
        "image AUROC": _figure(one.image_auroc, synthetic=one.synthetic),
        "AUPRO": _figure(one.aupro, synthetic=one.synthetic),
        "false alarms": _figure(one.false_alarm_rate),
        "recall": _figure(one.recall, synthetic=one.synthetic),
        "time": "reused" if one.reused else f"{one.train_seconds:.0f} s",
        "model": f"v{category.model_version} {category.alias or ''}".strip() if won else "",
    }


def _intervals(one: DetectorReport) -> dict[str, str]:
    return {
        "image AUROC 95 %": _interval(one.image_auroc_ci),
        "AUPRO 95 %": _interval(one.aupro_ci),
        "false alarms 95 %": _interval(one.false_alarm_rate_ci),
    }


def _detector_report(result: DetectorResult) -> DetectorReport:
    figures: dict[str, float | None] = {name: result.metrics.get(name) for name in FIGURES}
    intervals: dict[str, Interval | None] = {
        f"{name}_ci": result.intervals.get(name) for name in FIGURES
    }
    feedback = result.feedback
    return DetectorReport.model_validate(
        {
            **figures,
            **intervals,
            "feedback_images": len(feedback.images) if feedback else 0,
            "feedback_recall": feedback and feedback.recall,
            "feedback_recall_ci": feedback and feedback.interval,
            "threshold": result.threshold,
            "alpha": result.alpha,
            "n_calibration": result.n_calibration,
            "calibration_groups": result.calibration_groups,
            "false_alarm_bound": result.bound,
            "false_alarm_rate_95": result.rate_95,
            "false_alarm_rate_train": result.false_alarms.get("in_sample"),
            "false_alarm_rate_validation": result.false_alarms.get("held_out"),
            "false_alarm_rate_by_group": {
                name: {"normals": one.normals, "rate": one.rate, "rate_ci": one.interval}
                for name, one in result.false_alarms_by_group.items()
            },
            "train_seconds": result.train_seconds,
            "ms_per_image": result.ms_per_image,
            "reused": result.reused,
            "synthetic": result.synthetic,
            "run_id": result.run_id,
        }
    )


def _figure(value: float | None, *, synthetic: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:.3f} synthetic" if synthetic else f"{value:.3f}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} – {interval[1]:.3f}"
