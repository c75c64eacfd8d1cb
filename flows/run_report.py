"""The outcome of a retraining: the flow's return value, ``--report FILE.json``, and table rows."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from stillwatch.comparison.comparison import Answer
from stillwatch.files import write_json
from stillwatch.images.split import PARTS
from stillwatch.tasks.evaluation.notes import rejected_anomalies, threshold_sentences
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.seeds import spreads
from stillwatch.tasks.evaluation.task import FROM_NORMALS_ONLY
from stillwatch.tasks.evaluation.winner import Choice
from stillwatch.tasks.promotion.gate import JudgedVersion
from stillwatch.tasks.registry.register import Registration
from stillwatch.tasks.tracking.pages import mlflow_page
from stillwatch.tasks.training.candidates import DetectorSeed

Seeds = Mapping[int, DetectorResult]


class CategoryReport(BaseModel):
    """One category."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["registered", "unchanged", "failed"]
    reason: str | None = Field(
        None, description="why it failed, or why the winner was not promoted automatically"
    )
    winner: str | None = None
    seed: int | None = Field(None, description="of the registered detector")
    model_version: int | None = None
    alias: str | None = Field(None, description="champion, challenger or none")
    selected: str | None = Field(None, description="how the winner was chosen")
    answer: Answer | None = Field(None, description="of the gate, about winner and champion")
    comparison: str | None = Field(None, description="the gate's answer as a sentence")
    missed_floors: str | None = Field(
        None,
        description="why the winner's figures are too bad for a champion, as the gate said when it "
        "judged the version",
    )
    approval: Literal["pending", "refused"] | None = Field(
        None, description="pending: a person may promote the winner; refused: the gate forbids it"
    )
    images: dict[str, int] = Field(
        {}, description="distinct images of each part of the split, and of the test"
    )
    thresholds: list[str] = Field([], description="what the winner's thresholds promise")
    detectors: dict[str, dict[int, DetectorResult]] = Field(
        {}, description="detector -> seed -> evaluation.json of the MLflow run"
    )

    @property
    def result(self) -> DetectorResult:
        """Of the registered detector; a category that failed has none."""
        return self.detectors[self.winner or ""][self.seed or 0]


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
        """Write the report as JSON, atomically."""
        write_json(path, self.model_dump(mode="json"))


def category_report(
    results: Mapping[DetectorSeed, DetectorResult],
    choice: Choice,
    registration: Registration,
    judged: JudgedVersion,
    assignment: Mapping[str, str],
) -> CategoryReport:
    """The report of a category whose winner is registered and judged.

    Args:
        results: of all candidates, the first seed of a detector before its other seeds.
        choice: the winner among them.
        registration: of the winner.
        judged: the registered winner after the judgement.
        assignment: md5 of each train normal -> its part of the split.
    """
    version, judgement = judged.version, judged.judgement
    detectors: dict[str, dict[int, DetectorResult]] = {}
    for candidate, result in results.items():
        detectors.setdefault(candidate.detector, {})[candidate.seed] = result
    return CategoryReport(
        status="registered" if registration.created else "unchanged",
        reason=version.not_promoted or None,
        winner=choice.winner.detector,
        seed=next(one.seed for one, result in results.items() if result == choice.winner),
        model_version=version.version,
        alias=version.alias,
        selected=choice.selected,
        answer=judgement.answer if judgement else None,
        comparison=judgement.comparison or None if judgement else None,
        missed_floors=judgement.missed_floors or None if judgement else None,
        approval=version.approval,
        images=_image_counts(assignment, choice.winner),
        thresholds=threshold_sentences(choice.winner),
        detectors=detectors,
    )


def _image_counts(assignment: Mapping[str, str], winner: DetectorResult) -> dict[str, int]:
    parts = Counter(assignment.values())
    normals = winner.normals if winner.test_normals_from == "test" else 0
    anomalies = 0 if winner.synthetic else winner.anomalies
    return {part: parts[part] for part in PARTS} | {"test": normals + anomalies}


def seeds_sentence(report: RetrainReport) -> str:
    """How to read the rows of a retraining with several seeds; empty for one seed."""
    for category in report.categories.values():
        for detector in category.detectors.values():
            if len(detector) > 1:
                seeds = [str(seed) for seed in detector]
                return (
                    f"Figures are means over the seeds {', '.join(seeds)} ± half their range; "
                    f"the registered detector has seed {seeds[0]}."
                )
    return ""


def terminal_rows(report: RetrainReport) -> list[dict[str, str]]:
    """Rows of the terminal's table, one per trained detector."""
    return [
        {
            "category": name,
            "detector": detector,
            "image AUROC": _figure(seeds, "image_auroc"),
            "AUPRO": _figure(seeds, "aupro"),
            "false alarms": _figure(seeds, "false_alarm_rate"),
            "recall": _figure(seeds, "recall"),
            "time": _time(seeds.values()),
            "model": _model(category, detector),
        }
        for name, category in report.categories.items()
        for detector, seeds in category.detectors.items()
    ]


def prefect_rows(report: RetrainReport, mlflow_address: str) -> list[dict[str, str]]:
    """Rows of Prefect's table: one per trained detector, with a link to its run in MLflow.

    A failed category has one row more, with the reason.
    """
    rows = [{"category": name, "outcome": reason} for name, reason in report.failed.items()]
    return rows + [
        {
            "category": name,
            "outcome": _outcome(category, detector),
            "detector": detector,
            "finds": _finds(seeds),
            "image AUROC": _figure(seeds, "image_auroc"),
            "false alarms": _figure(seeds, "false_alarm_rate"),
            "MLflow run": mlflow_page(mlflow_address, f"runs/{_first(seeds).run_id}"),
        }
        for name, category in report.categories.items()
        for detector, seeds in category.detectors.items()
    ]


def _outcome(category: CategoryReport, detector: str) -> str:
    if detector != category.winner:
        return "not chosen"
    approval = {"pending": ", waits for approval", "refused": ", refused by the gate", None: ""}
    return f"{category.status} {_model(category, detector)}{approval[category.approval]}"


def _model(category: CategoryReport, detector: str) -> str:
    if detector != category.winner:
        return ""
    return f"v{category.model_version} {category.alias or ''}".strip()


def _time(seeds: Iterable[DetectorResult]) -> str:
    trained = [one.train_seconds for one in seeds if not one.reused]
    return f"{sum(trained):.0f} s" if trained else "reused"


def _figure(seeds: Seeds, name: str) -> str:
    """A figure, or its mean and spread over several seeds."""
    result = _first(seeds)
    if name not in result.metrics:
        return "–"
    spread = spreads(list(seeds.values())).get(name)
    figure = f"{result.metrics[name]:.3f}" if spread is None else str(spread)
    synthetic = result.synthetic and name not in FROM_NORMALS_ONLY
    return f"{figure} synthetic" if synthetic else figure


def _finds(seeds: Seeds) -> str:
    """How many of the test's defects are rejected; of several seeds the fewest and the most."""
    result = _first(seeds)
    if "recall" not in result.metrics:
        return "–"
    counts = {rejected_anomalies(one) for one in seeds.values()}
    found = " to ".join(map(str, sorted({min(counts), max(counts)})))
    return f"{found} of {result.anomalies}{' synthetic' if result.synthetic else ''}"


def _first(seeds: Seeds) -> DetectorResult:
    """The result of the seed that may be registered."""
    return next(iter(seeds.values()))
