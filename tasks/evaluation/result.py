"""The result of an evaluation, as it is stored, registered and reported."""

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from stillwatch.calibration import Verdict
from stillwatch.errors import TrackingError

if TYPE_CHECKING:  # it imports MLflow
    from stillwatch.tasks.tracking.client import Tracking

Interval = tuple[float, float]

RESULT_FILE = "evaluation.json"
FIGURE_NAMES = {
    "image_auroc": "image AUROC",
    "image_ap": "image average precision",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
    "recall": "recall",
    "false_alarm_rate": "false alarms",
}
"""Figures of an evaluation with their names in reports, in the order of reports."""


class GroupResult(BaseModel):
    """Rejected test images of one group."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int
    rejected: int


class CorrectedAnomaly(BaseModel):
    """The verdict on an anomaly that a detector missed and a person corrected."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    """POSIX, relative to the category's folder."""
    defect_type: str
    score: float
    p_value: float
    verdict: Verdict


class FeedbackResult(BaseModel):
    """The figures of the corrected anomalies, which were chosen by their scores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: tuple[CorrectedAnomaly, ...]
    """At least one."""
    recall: float
    """Share of rejected images."""
    interval: Interval
    """Clopper-Pearson, 95 %."""


class DetectorResult(BaseModel):
    """The result of one evaluated detector; ``evaluation.json`` of its run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    category: str
    detector: str
    fingerprint: str
    run_id: str
    data_version: str
    synthetic: bool
    """The anomalies are synthetic."""
    test_normals_from: str
    """``test``, or ``validation`` if the category has no ``test/good``."""
    normals: int
    """Of the test."""
    anomalies: int
    """Of the test."""
    reviewed_anomalies: int
    """Of the test, those with the verdict review."""
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    recall_by_defect: dict[str, float]
    false_alarms: dict[str, float | Interval]
    normals_by_group: dict[str, GroupResult]
    """Of the test; empty without groups."""
    anomalies_by_group: dict[str, GroupResult]
    """Of the test."""
    feedback: FeedbackResult | None = None
    """None without corrected anomalies; no other figure includes them."""
    outside_region: tuple[str, ...] = ()
    """Test anomalies whose whole defect is outside the region of interest; in no figure."""
    evaluation_size: int
    """Longer side, in pixels, at which the pixel figures were computed."""
    threshold: float
    review_threshold: float
    alpha: float
    alpha_review: float
    n_calibration: int
    rank: int
    """Of the calibration score that is the threshold."""
    calibration_groups: int
    """0 without a group pattern."""
    calibration_repeats: int = 0
    """Calibration images that show the same as another image, or as one that was learnt from."""
    bound: float
    """This and the next: without the repeats (``Threshold.without_repeats``)."""
    rate_95: float
    train_seconds: float
    ms_per_image: float
    evaluated_at: int
    """Milliseconds since 1970."""
    reused: bool = False
    """Trained by an earlier retraining."""


def read_result(tracking: "Tracking", run_id: str) -> DetectorResult:
    """Read the result of an earlier evaluation from its run.

    Raises:
        TrackingError: the run has no readable result.
    """
    with tracking.artifact(run_id, RESULT_FILE) as path:
        try:
            return DetectorResult.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise TrackingError(
                f"{RESULT_FILE} of run {run_id} at {tracking.uri} is damaged ({error}). Delete "
                "the run in MLflow and retrain: the figures are computed again."
            ) from error
