"""Fingerprints of trained detectors and evaluations, and the search for them in MLflow."""

import hashlib
import json
from collections.abc import Mapping

from stillwatch.settings import Settings
from stillwatch.tasks.tracking.client import Tracking
from stillwatch.tasks.tracking.tags import EVALUATED, EVALUATION, FINGERPRINT, STAGE, TRAINED

_FINGERPRINT_VERSION = 1
"""Increase when code that all methods share changes the scores of a trained detector."""
_EVALUATION_VERSION = 1
"""Increase when code changes the figures of an evaluation or how they are stored."""


def fingerprint(
    *,
    training_digest: str,
    detector: str,
    method_version: int,
    detector_settings: Mapping[str, object],
    seed: int,
    tiles_per_epoch: int,
    geometry: Mapping[str, object],
    white_level: int,
    teacher: str,
    teacher_digest: str,
    photographs: str | None,
) -> str:
    """Hash everything that the weights and the stored scores of a trained detector depend on.

    Calibration images are included, since their scores are stored with the detector. False-alarm
    rates, test images and the settings of evaluation, gate and retraining are not: they need no
    training.
    """
    return _digest(locals() | {"version": _FINGERPRINT_VERSION})


def evaluation_key(settings: Settings, test_digest: str) -> str:
    """Hash what the thresholds and test figures of a trained detector depend on.

    Args:
        test_digest: of the files that nothing is trained or calibrated on.
    """
    return _digest(
        {
            "calibration": settings.calibration.model_dump(mode="json"),
            "evaluation": settings.evaluation.model_dump(mode="json"),
            "group_pattern": settings.split.group_pattern,
            "test_digest": test_digest,
            "version": _EVALUATION_VERSION,
        }
    )


def find_finished_run(
    tracking: Tracking, category: str, detector_fingerprint: str, evaluation: str | None = None
) -> str | None:
    """Find the newest run that holds a trained detector, preferably an evaluated one.

    Args:
        evaluation: only runs with this ``evaluation_key``; None: any.

    Returns:
        The run's id; None if there is none.
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
