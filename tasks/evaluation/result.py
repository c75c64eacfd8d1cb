"""Everything that is reported about one evaluated detector."""

from pydantic import BaseModel, ConfigDict

from stillwatch.calibration import Verdict

Interval = tuple[float, float]

FIGURE_NAMES = {
    "image_auroc": "image AUROC",
    "image_ap": "image average precision",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
    "recall": "recall",
    "false_alarm_rate": "false alarms",
}
"""Figures of an evaluation as reports call them, in their order."""


class GroupResult(BaseModel):
    """False alarms on the test normals of one group."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    normals: int
    false_alarms: int
    rate: float
    interval: Interval


class CorrectedAnomaly(BaseModel):
    """What the detector says about an anomaly whose verdict a person corrected."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    """POSIX, relative to the category's folder."""
    defect_type: str
    score: float
    p_value: float
    verdict: Verdict


class FeedbackResult(BaseModel):
    """The corrected anomalies, which are in the image set because of their scores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: tuple[CorrectedAnomaly, ...]
    """At least one."""
    recall: float
    """Share that is rejected."""
    interval: Interval
    """Clopper-Pearson, 95 %."""


class DetectorResult(BaseModel):
    """Everything that is reported about one detector; the run's ``evaluation.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    category: str
    detector: str
    fingerprint: str
    run_id: str
    data_version: str
    synthetic: bool
    """Its anomalies are made, not photographed."""
    test_normals_from: str
    """``test``, or ``validation`` where the category has no ``test/good``."""
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    recall_by_defect: dict[str, float]
    false_alarms: dict[str, float | Interval]
    false_alarms_by_group: dict[str, GroupResult]
    feedback: FeedbackResult | None = None
    """None without corrected anomalies; no other figure has them in it."""
    evaluation_size: int
    threshold: float
    review_threshold: float
    alpha: float
    alpha_review: float
    n_calibration: int
    calibration_groups: int
    """0 without a group pattern."""
    bound: float
    rate_95: float
    train_seconds: float
    ms_per_image: float
    evaluated_at: int
    """Milliseconds since 1970."""
    reused: bool = False
    """Trained by an earlier retraining."""
