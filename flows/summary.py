"""What a retraining ended with, for the report, the Prefect page and the terminal."""

from collections.abc import Mapping, Sequence

from stillwatch.flows.run_report import (
    CategoryReport,
    DetectorReport,
    Interval,
    RetrainReport,
    SeedReport,
)
from stillwatch.tasks.evaluation.notes import threshold_sentences
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.seeds import spreads
from stillwatch.tasks.evaluation.task import FROM_NORMALS_ONLY
from stillwatch.tasks.evaluation.winner import Choice
from stillwatch.tasks.registry.register import Registration
from stillwatch.tasks.registry.versions import RegisteredVersion
from stillwatch.tasks.training.candidates import DetectorSeed

FIGURES = (*("image_auroc", "image_ap", "pixel_auroc", "aupro", "false_alarm_rate", "recall"),)


def category_report(
    results: Mapping[DetectorSeed, DetectorResult],
    choice: Choice,
    registration: Registration,
    version: RegisteredVersion,
) -> CategoryReport:
    """The report of a category whose winner is registered and judged.

    Args:
        results: of all detectors, the first seed of a detector before its others.
        choice: the winner among them.
        registration: of the winner.
        version: the registered winner after the judgement.
    """
    detectors: dict[str, dict[int, DetectorResult]] = {}
    for candidate, result in results.items():
        detectors.setdefault(candidate.detector, {})[candidate.seed] = result
    return CategoryReport(
        status="registered" if registration.created else "unchanged",
        reason=version.not_promoted or None,
        winner=choice.winner.detector,
        model_version=version.version,
        alias=version.alias,
        selected=choice.selected,
        answer=version.answer,
        comparison=version.comparison or None,
        approval=version.approval,
        thresholds=threshold_sentences(choice.winner),
        detectors={name: _detector_report(seeds) for name, seeds in detectors.items()},
    )


def failure_sentence(report: RetrainReport) -> str:
    """One sentence per failed category."""
    return " ".join(f"{name}: {reason}" for name, reason in report.failed.items())


def seeds_sentence(report: RetrainReport) -> str:
    """How to read the rows of a retraining with several seeds; empty for one seed."""
    for category in report.categories.values():
        for detector in category.detectors.values():
            if detector.seeds:
                seeds = [str(one.seed) for one in detector.seeds]
                return (
                    f"Figures are means over the seeds {', '.join(seeds)} ± half their range; "
                    f"what is registered is of seed {seeds[0]}."
                )
    return ""


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
            | _of_first_seed(one)
            | {
                "data version": report.data_version or "",
                f"MLflow run{_first_seed(one)}": f"{mlflow_address}/#/runs/{one.run_id}",
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
        "image AUROC": _figure(one, "image_auroc"),
        "AUPRO": _figure(one, "aupro"),
        "false alarms": _figure(one, "false_alarm_rate"),
        "recall": _figure(one, "recall"),
        "time": _time(one.seeds or [one]),
        "model": f"v{category.model_version} {category.alias or ''}".strip() if won else "",
    }


def _of_first_seed(one: DetectorReport) -> dict[str, str]:
    """What has no mean."""
    seed = _first_seed(one)
    return {
        f"image AUROC 95 %{seed}": _interval(one.image_auroc_ci),
        f"AUPRO 95 %{seed}": _interval(one.aupro_ci),
        f"false alarms 95 %{seed}": _interval(one.false_alarm_rate_ci),
        f"ms per image{seed}": f"{one.ms_per_image:.0f}",
    }


def _first_seed(one: DetectorReport) -> str:
    """For the heading of what is of one seed; empty where there was no other."""
    return f", seed {one.seeds[0].seed}" if one.seeds else ""


def _time(trainings: Sequence[DetectorReport | SeedReport]) -> str:
    trained = [one.train_seconds for one in trainings if not one.reused]
    return f"{sum(trained):.0f} s" if trained else "reused"


def _detector_report(seeds: Mapping[int, DetectorResult]) -> DetectorReport:
    """Of the seeds of one detector."""
    result = next(iter(seeds.values()))
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
            "seeds": [_seed_report(*item) for item in seeds.items()] if len(seeds) > 1 else [],
            "spread": spreads(list(seeds.values())),
        }
    )


def _seed_report(seed: int, result: DetectorResult) -> SeedReport:
    figures = {name: result.metrics.get(name) for name in FIGURES}
    return SeedReport(
        seed=seed,
        **figures,
        train_seconds=result.train_seconds,
        reused=result.reused,
        run_id=result.run_id,
    )


def _figure(one: DetectorReport, name: str) -> str:
    value: float | None = getattr(one, name)
    if value is None:
        return "–"
    figure = str(one.spread[name]) if name in one.spread else f"{value:.3f}"
    synthetic = one.synthetic and name not in FROM_NORMALS_ONLY
    return f"{figure} synthetic" if synthetic else figure


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} – {interval[1]:.3f}"
