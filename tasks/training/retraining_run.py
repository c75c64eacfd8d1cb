"""The parent run in MLflow of one category's retraining, and its files.

The run keeps what the validation found (``validation.json``) and which settings differ from the
defaults (``settings.json``). The runs of the detectors are its children.
"""

from collections.abc import Sequence
from dataclasses import asdict

from pydantic import TypeAdapter

from stillwatch.detectors import changed_from_profile, detector_settings
from stillwatch.machine.devices import choose_profile
from stillwatch.settings import Settings
from stillwatch.tasks.data.version import CategoryVersion, DataVersion
from stillwatch.tasks.tracking.client import Tracking, open_tracking
from stillwatch.tasks.tracking.entries import JsonArtifact, flattened
from stillwatch.tasks.tracking.tags import DATA_VERSION, KIND
from stillwatch.tasks.validation.report import ValidationReport

RETRAINING = "retraining"
"""The value of the tag ``KIND``."""
DETECTORS = "stillwatch.detectors"
"""The competing detectors, as ``a, b``."""
SEEDS = "stillwatch.seeds"
"""The seeds of each detector, as ``0, 1``; the first one may go into production."""
REUSED = "stillwatch.reused."
"""Prefix, before a candidate's name, of a tag with the earlier run that trained this candidate."""
WINNER, MODEL_VERSION = "stillwatch.winner", "stillwatch.model_version"
REGISTERED = "stillwatch.registered"
"""``true``: this retraining registered the version; ``false``: an earlier one did."""

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
"""The settings that the outcome depends on; the others name addresses and folders."""


def start_retraining_run(
    category: CategoryVersion,
    data: DataVersion,
    validation: ValidationReport,
    settings: Settings,
    seeds: Sequence[int] = (),
) -> str:
    """Start the parent run and return its id; end the runs that killed retrainings left running.

    Args:
        seeds: each detector is trained with each of them; none: ``training.seed`` of the settings.
    """
    tracking = open_tracking(settings)
    tracking.close_dead_runs(category.name)
    seeds = seeds or (settings.training.seed,)
    tags = data_tags(category, data) | {
        KIND: RETRAINING,
        DETECTORS: ", ".join(dict.fromkeys(settings.retrain.detectors)),
        SEEDS: ", ".join(map(str, seeds)),
    }
    run_id = tracking.start_run(category.name, f"retraining on {data.name}", tags)
    _VALIDATION.write(tracking, run_id, asdict(validation))
    several = {"training.seed": list(seeds)} if len(seeds) > 1 else {}
    _SETTINGS.write(tracking, run_id, changed_settings(settings) | several)
    return run_id


def finish_retraining_run(settings: Settings, run_id: str, reason: str | None = None) -> None:
    """End the parent run: failed if there is a reason, else finished."""
    tracking = open_tracking(settings)
    if reason is None:
        tracking.end_run(run_id, "FINISHED")
    else:
        tracking.fail_run(run_id, reason)


def data_tags(category: CategoryVersion, data: DataVersion) -> dict[str, str]:
    """The tags that identify a run's data."""
    return {
        "stillwatch.category": category.name,
        DATA_VERSION: data.dir_hash,
        "stillwatch.data_tag": data.tag or "",
        "stillwatch.git_commit": data.commit,
        "stillwatch.category_digest": category.digest,
        "stillwatch.training_digest": category.training_digest,
    }


def read_validation(tracking: Tracking, run_id: str) -> ValidationReport:
    """Read the outcome of the checks from a retraining's run, as ``JsonArtifact.parse``."""
    return _VALIDATION.parse(tracking, run_id, TypeAdapter(ValidationReport).validate_python)


def read_changed_settings(tracking: Tracking, run_id: str) -> dict[str, object]:
    """Read what ``changed_settings`` gave at the start of a run, as ``JsonArtifact.parse``."""
    return _SETTINGS.parse(tracking, run_id, dict)


def changed_settings(settings: Settings) -> dict[str, object]:
    """The settings that differ from the defaults, dotted name -> value; no folders.

    The defaults of a detector's settings are those of this machine's profile.
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
