"""The parent run in MLflow: one per category and retraining."""

from collections.abc import Sequence

from stillwatch.settings import Settings
from stillwatch.tasks.data.version import CategoryVersion, DataVersion
from stillwatch.tasks.tracking.client import KIND, open_tracking
from stillwatch.tasks.tracking.retraining_evidence import record_evidence
from stillwatch.tasks.validation.report import ValidationReport

RETRAINING = "retraining"
DETECTORS = "stillwatch.detectors"
"""Which detectors compete, as ``a, b``."""
SEEDS = "stillwatch.seeds"
"""With which seeds each of them, as ``0, 1``; the first may go into production."""
REUSED = "stillwatch.reused."
"""Prefix of the tag that names the run of a candidate which an earlier retraining trained."""
WINNER, MODEL_VERSION = "stillwatch.winner", "stillwatch.model_version"
REGISTERED = "stillwatch.registered"
"""Whether that version is of this retraining, ``true``, or of an earlier one, ``false``."""


def start_retraining_run(
    category: CategoryVersion,
    data: DataVersion,
    validation: ValidationReport,
    settings: Settings,
    seeds: Sequence[int] = (),
) -> str:
    """Begin the parent run and return its id; close what killed retrainings left open.

    Args:
        category: what is retrained.
        data: the data version that it belongs to.
        validation: what the checks said about its images.
        settings: all of them.
        seeds: with which each detector is trained; none: ``training.seed`` of the settings.

    Raises:
        TrackingError: the store does not answer.
        StorageError: the state folder cannot be written to.
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
    record_evidence(tracking, run_id, validation, settings, seeds)
    return run_id


def finish_retraining_run(settings: Settings, run_id: str, reason: str | None = None) -> None:
    """End the parent run: failed if there is a reason, finished otherwise.

    Raises:
        TrackingError: the store does not answer.
    """
    tracking = open_tracking(settings)
    if reason is None:
        tracking.end_run(run_id, "FINISHED")
    else:
        tracking.fail_run(run_id, reason)


def data_tags(category: CategoryVersion, data: DataVersion) -> dict[str, str]:
    """Which data a run is about."""
    return {
        "stillwatch.category": category.name,
        "stillwatch.data_version": data.dir_hash,
        "stillwatch.data_tag": data.tag or "",
        "stillwatch.git_commit": data.commit,
        "stillwatch.category_digest": category.digest,
        "stillwatch.split_digest": category.split_digest,
    }
