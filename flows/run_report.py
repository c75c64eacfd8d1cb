"""What a retraining ended with, as the flow returns it and ``--report FILE.json`` writes it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from stillwatch.comparison.comparison import Answer
from stillwatch.files import write_json
from stillwatch.tasks.evaluation.seeds import Spread

Interval = tuple[float, float]


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
