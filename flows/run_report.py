"""The report of a retraining: the schema of ``--report FILE.json``, and its tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from stillwatch.comparison.comparison import Answer
from stillwatch.files import write_json
from stillwatch.tasks.evaluation.notes import threshold_sentences
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.seeds import Spread, spreads
from stillwatch.tasks.evaluation.task import FROM_NORMALS_ONLY
from stillwatch.tasks.registry.register import Registration
from stillwatch.tasks.training.candidates import Entrant

Interval = tuple[float, float]

FIGURES = ("image_auroc", "image_ap", "pixel_auroc", "aupro", "false_alarm_rate", "recall")


class GroupReport(BaseModel):
    """The test normals of one group."""

    model_config = ConfigDict(extra="forbid")

    normals: int
    rate: float = Field(description="share that is rejected")
    rate_ci: Interval


class SeedReport(BaseModel):
    """One of several seeds of a detector."""

    model_config = ConfigDict(extra="forbid")

    seed: int
    image_auroc: float | None = None
    image_ap: float | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None
    false_alarm_rate: float | None = None
    recall: float | None = None
    train_seconds: float
    reused: bool
    run_id: str


class DetectorReport(BaseModel):
    """One trained detector, of several seeds the first.

    A figure that cannot be computed (no masks, say) is null.
    """

    model_config = ConfigDict(extra="forbid")

    image_auroc: float | None = None
    image_auroc_ci: Interval | None = None
    image_ap: float | None = None
    image_ap_ci: Interval | None = None
    pixel_auroc: float | None = None
    pixel_auroc_ci: Interval | None = None
    aupro: float | None = Field(None, description="to 30 % false-positive rate, normalised")
    aupro_ci: Interval | None = None
    false_alarm_rate: float | None = Field(None, description="test normals that are rejected")
    false_alarm_rate_ci: Interval | None = None
    recall: float | None = Field(None, description="test anomalies that are rejected")
    recall_ci: Interval | None = None
    feedback_images: int = Field(0, description="anomalies whose verdict a person corrected")
    feedback_recall: float | None = Field(None, description="those of them that are rejected")
    feedback_recall_ci: Interval | None = None
    threshold: float = Field(description="of the verdict reject, in raw scores")
    alpha: float = Field(description="false-alarm rate that the threshold is calibrated for")
    n_calibration: int
    calibration_groups: int = Field(0, description="of the group pattern; 0 without one")
    false_alarm_bound: float = Field(description="on average over calibration sets")
    false_alarm_rate_95: float = Field(description="holds with 95 % confidence for this one")
    false_alarm_rate_train: float | None = None
    false_alarm_rate_validation: float | None = None
    false_alarm_rate_by_group: dict[str, GroupReport] = {}
    train_seconds: float
    ms_per_image: float
    reused: bool = Field(description="taken from an earlier run with the same fingerprint")
    synthetic: bool = Field(False, description="figures come from synthetic anomalies")
    run_id: str = Field(description="the MLflow run that holds the evidence")
    seeds: list[SeedReport] = Field([], description="every seed; empty where there was one")
    spread: dict[str, Spread] = Field(
        {}, description="figure -> its mean over the seeds; empty where there was one"
    )


class CategoryReport(BaseModel):
    """One category."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["registered", "unchanged", "failed"]
    reason: str | None = Field(
        None, description="why it failed, or why its winner did not become champion by itself"
    )
    winner: str | None = None
    model_version: int | None = None
    alias: str | None = Field(None, description="champion or challenger, when it has one")
    selected: str | None = Field(None, description="how the winner was chosen")
    answer: Answer | None = Field(None, description="of the gate, about winner and champion")
    comparison: str | None = Field(None, description="the gate's answer as a sentence")
    approval: Literal["pending", "refused"] | None = Field(
        None, description="pending: a person may promote the winner; refused: the gate forbids it"
    )
    thresholds: list[str] = Field([], description="what the winner's promise, in sentences")
    detectors: dict[str, DetectorReport] = {}


class RetrainReport(BaseModel):
    """A whole retraining."""

    model_config = ConfigDict(extra="forbid")

    data_version: str | None = Field(description="DVC's hash of the image set, '<md5>.dir'")
    categories: dict[str, CategoryReport]

    @property
    def failed(self) -> dict[str, str]:
        """The failed categories, each with its reason."""
        return {
            name: category.reason or "no reason was given"
            for name, category in self.categories.items()
            if category.status == "failed"
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON, atomically.

        Raises:
            StorageError: the folder cannot be written to.
        """
        write_json(path, self.model_dump(mode="json"))


def category_report(
    results: Mapping[Entrant, DetectorResult], registration: Registration
) -> CategoryReport:
    """The report of a category whose winner is registered.

    Args:
        results: of all detectors that competed, the first seed of a detector before its others.
        registration: of the winner.
    """
    detectors: dict[str, dict[int, DetectorResult]] = {}
    for entrant, result in results.items():
        detectors.setdefault(entrant.detector, {})[entrant.seed] = result
    winner = next(iter(detectors[registration.detector].values()))
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
        thresholds=threshold_sentences(winner),
        detectors={name: _detector_report(seeds) for name, seeds in detectors.items()},
    )


def failure_sentence(report: RetrainReport) -> str:
    """One sentence per failed category."""
    return " ".join(f"{name}: {reason}" for name, reason in report.failed.items())


def seeds_sentence(report: RetrainReport) -> str:
    """A sentence on what the figures of several seeds are; empty for one seed."""
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
    """Rows of the table on the terminal, one per trained detector."""
    return [
        {"category": name} | _row(category, detector, one)
        for name, category in report.categories.items()
        for detector, one in category.detectors.items()
    ]


def table_rows(report: RetrainReport, mlflow_address: str) -> list[dict[str, str]]:
    """Rows of the table in Prefect; the MLflow run that a row links to has all figures.

    Args:
        report: of the retraining.
        mlflow_address: of the MLflow server, for the links.
    """
    rows = []
    for name, category in report.categories.items():
        if category.status == "failed":
            rows.append({"category": name, "outcome": category.reason or ""})
        rows += [
            {
                "category": name,
                "outcome": _outcome(category, detector),
                "detector": detector,
                "image AUROC": _figure(one, "image_auroc"),
                "false alarms": _figure(one, "false_alarm_rate"),
                "MLflow run": f"{mlflow_address}/#/runs/{one.run_id}",
            }
            for detector, one in category.detectors.items()
        ]
    return rows


def _outcome(category: CategoryReport, detector: str) -> str:
    if detector != category.winner:
        return "not chosen"
    suffix = {"pending": ", waits for approval", "refused": ", refused by the gate", None: ""}
    return category.status + suffix[category.approval]


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


def _time(trainings: Sequence[DetectorReport | SeedReport]) -> str:
    trained = [one.train_seconds for one in trainings if not one.reused]
    return f"{sum(trained):.0f} s" if trained else "reused"


def _detector_report(seeds: Mapping[int, DetectorResult]) -> DetectorReport:
    """The report of a detector, from the results of its seeds; the first seed may be registered."""
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
