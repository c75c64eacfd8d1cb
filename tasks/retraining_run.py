"""The parent run in MLflow: one per category and retraining."""

from stillwatch.settings import Settings
from tasks.tracking import open_tracking
from tasks.version import CategoryVersion, DataVersion


def start_retraining_run(category: CategoryVersion, data: DataVersion, settings: Settings) -> str:
    """Begin the parent run and return its id; close what killed retrainings left open.

    Raises:
        TrackingError: the store does not answer.
        StorageError: the state folder cannot be written to.
    """
    tracking = open_tracking(settings)
    tracking.close_dead_runs(category.name)
    name = f"retraining on {data.name}"
    return tracking.start_run(category.name, name, data_tags(category, data))


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
