"""What a retraining's run keeps beside its detectors: what the checks said, changed settings."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stillwatch.detectors import detector_settings, parse_detector_settings
from stillwatch.devices import choose_profile
from stillwatch.errors import TrackingError
from stillwatch.files import write_json
from stillwatch.settings import Settings
from tasks.mlflow_entries import flattened
from tasks.tracking import Tracking
from tasks.validation_report import CheckOutcome, Failure, ValidationReport

VALIDATION_FILE = "validation.json"
SETTINGS_FILE = "settings.json"

_SECTIONS = {
    "images",
    "split",
    "calibration",
    "checks",
    "training",
    "evaluation",
    "retrain",
    "gate",
}
"""What the outcome depends on; the others say where things are."""


def record_evidence(
    tracking: Tracking, run_id: str, validation: ValidationReport, settings: Settings
) -> None:
    """Put both into a run.

    Raises:
        TrackingError: the store does not answer or cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as name:
        folder = Path(name)
        write_json(folder / VALIDATION_FILE, asdict(validation))
        write_json(folder / SETTINGS_FILE, changed_settings(settings))
        tracking.log_folder(run_id, folder)


def read_validation(tracking: Tracking, run_id: str) -> ValidationReport:
    """What the checks said before a retraining.

    Raises:
        TrackingError: the run holds nothing readable.
    """
    try:
        values = _read(tracking, run_id, VALIDATION_FILE)
        return ValidationReport(
            category=values["category"],
            failures=tuple(Failure(**one) for one in values["failures"]),
            errored=tuple(values["errored"]),
            outcomes=tuple(CheckOutcome(**one) for one in values["outcomes"]),
            facts=values["facts"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise TrackingError(_damaged(tracking, run_id, VALIDATION_FILE, error)) from error


def read_changed_settings(tracking: Tracking, run_id: str) -> dict[str, object]:
    """The settings of a retraining that differ from the defaults, by their dotted names.

    Raises:
        TrackingError: the run holds nothing readable.
    """
    try:
        return dict(_read(tracking, run_id, SETTINGS_FILE))
    except (ValueError, TypeError) as error:
        raise TrackingError(_damaged(tracking, run_id, SETTINGS_FILE, error)) from error


def changed_settings(settings: Settings) -> dict[str, object]:
    """The settings that differ from the defaults, by their dotted names; no folders.

    A detector's are held against those of this machine's profile.
    """
    values = settings.model_dump(mode="json", exclude_defaults=True, include=_SECTIONS)
    values.get("training", {}).pop("photographs", None)
    changed = {
        key: value for name in values for key, value in flattened(values[name], name).items()
    }
    if settings.teacher.name != type(settings.teacher)().name:
        changed["teacher.name"] = settings.teacher.name
    for name in settings.retrain.detectors:
        ours = detector_settings(name, settings).model_dump(mode="json")
        theirs = parse_detector_settings(name, {}, choose_profile(settings.training))
        usual = theirs.model_dump(mode="json")
        different = {key: value for key, value in ours.items() if value != usual.get(key)}
        changed |= flattened(different, f"detectors.{name}")
    return changed


def _read(tracking: Tracking, run_id: str, name: str) -> Any:
    with tracking.artifact(run_id, name) as path:
        return json.loads(path.read_bytes())


def _damaged(tracking: Tracking, run_id: str, name: str, error: Exception) -> str:
    return (
        f"{name} of run {run_id} at {tracking.uri} is damaged ({error!r}). Retrain: the next "
        "retraining has a report again."
    )
