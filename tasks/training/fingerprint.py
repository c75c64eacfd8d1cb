"""What makes two trained detectors, or two evaluations, the same; and finding them in MLflow."""

import hashlib
import json
from collections.abc import Mapping

from stillwatch.settings import CalibrationSettings, EvaluationSettings
from stillwatch.tasks.tracking.client import Tracking
from stillwatch.tasks.tracking.tags import EVALUATED, EVALUATION, FINGERPRINT, STAGE, TRAINED

_GENERATION = 1
"""Raised whenever code that all methods share changes the scores of a trained detector."""
_EVALUATION_GENERATION = 2
"""Raised whenever code changes the figures of an evaluation or how they are stored."""


def fingerprint(
    *,
    category_digest: str,
    split_digest: str,
    detector: str,
    method_version: int,
    detector_settings: Mapping[str, object],
    seed: int,
    image_size: int,
    white_level: int,
    teacher: str,
    teacher_digest: str,
    photographs: str | None,
) -> str:
    """Identity of a trained detector: everything that its weights and raw scores depend on.

    No false-alarm rate is in it: another alpha needs no training.
    """
    return _digest(locals() | {"generation": _GENERATION})


def evaluation_key(calibration: CalibrationSettings, evaluation: EvaluationSettings) -> str:
    """Identity of what is done with a trained detector: its thresholds and its test figures."""
    return _digest(
        {
            "calibration": calibration.model_dump(mode="json"),
            "evaluation": evaluation.model_dump(mode="json"),
            "generation": _EVALUATION_GENERATION,
        }
    )


def find_finished_run(
    tracking: Tracking, category: str, detector_fingerprint: str, evaluation: str | None = None
) -> str | None:
    """Id of the newest run that holds this trained detector, with any evaluation or this one.

    Raises:
        TrackingError: the store does not answer.
    """
    tags = {FINGERPRINT: detector_fingerprint} | ({EVALUATION: evaluation} if evaluation else {})
    runs = tracking.find_runs(category, tags)
    for stage in (EVALUATED, TRAINED):
        for run in runs:
            if run.data.tags.get(STAGE) == stage:
                return str(run.info.run_id)
    return None


def _digest(values: Mapping[str, object]) -> str:
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
