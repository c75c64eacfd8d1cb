"""What a retraining's run keeps beside its detectors: what the checks said, changed settings."""

from collections.abc import Sequence
from dataclasses import asdict

from stillwatch.detectors import changed_from_profile, detector_settings
from stillwatch.devices import choose_profile
from stillwatch.settings import Settings
from stillwatch.tasks.tracking.client import Tracking
from stillwatch.tasks.tracking.entries import flattened
from stillwatch.tasks.tracking.json_artifacts import JsonArtifact
from stillwatch.tasks.validation.report import CheckOutcome, Failure, ValidationReport

_REMEDY = "Retrain: the next retraining has a report again."
_VALIDATION = JsonArtifact("validation.json", _REMEDY)
_SETTINGS = JsonArtifact("settings.json", _REMEDY)

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
    tracking: Tracking,
    run_id: str,
    validation: ValidationReport,
    settings: Settings,
    seeds: Sequence[int],
) -> None:
    """Put both into a run.

    Raises:
        TrackingError: the store does not answer or cannot be written.
    """
    _VALIDATION.write(tracking, run_id, asdict(validation))
    several = {"training.seed": list(seeds)} if len(seeds) > 1 else {}
    _SETTINGS.write(tracking, run_id, changed_settings(settings) | several)


def read_validation(tracking: Tracking, run_id: str) -> ValidationReport:
    """What the checks said before a retraining.

    Raises:
        TrackingError: the run holds nothing readable.
    """
    values = _VALIDATION.read(tracking, run_id)
    try:
        return ValidationReport(
            category=values["category"],
            failures=tuple(Failure(**one) for one in values["failures"]),
            errored=tuple(values["errored"]),
            outcomes=tuple(CheckOutcome(**one) for one in values["outcomes"]),
            facts=values["facts"],
        )
    except (KeyError, TypeError) as error:
        raise _VALIDATION.damaged(tracking, run_id, error) from error


def read_changed_settings(tracking: Tracking, run_id: str) -> dict[str, object]:
    """The settings of a retraining that differ from the defaults, by their dotted names.

    Raises:
        TrackingError: the run holds nothing readable.
    """
    values = _SETTINGS.read(tracking, run_id)
    try:
        return dict(values)
    except (ValueError, TypeError) as error:
        raise _SETTINGS.damaged(tracking, run_id, error) from error


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
        own = detector_settings(name, settings).model_dump(mode="json")
        different = changed_from_profile(name, own, choose_profile(settings.training))
        changed |= flattened(different, f"detectors.{name}")
    return changed
