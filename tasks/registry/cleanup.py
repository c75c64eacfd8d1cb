"""Delete what an interrupted registration left in the registry."""

from datetime import timedelta

from mlflow.entities.model_registry import ModelVersion

from stillwatch.tasks.registry.approval import CHAMPION_SINCE
from stillwatch.tasks.registry.versions import aliases_of, category_of, versions_of
from stillwatch.tasks.tracking.client import Tracking, every_page
from stillwatch.tasks.tracking.entries import milliseconds

LAST_TAG = "false_alarm_rate"
"""Tag that a registration writes last; without the tag, a version is unfinished."""


def remove_unfinished(tracking: Tracking, name: str, run_id: str, patience: timedelta) -> None:
    """Delete unfinished versions, and logged models of a run without a version.

    Another machine may be registering in the same store now, so versions of other runs are deleted
    only when they are old. Versions with an alias or with the tag of a champion are never deleted,
    even if their tag ``LAST_TAG`` is missing: anybody may edit tags.

    Args:
        name: of the registered model.
        run_id: whose versions are deleted at any age; the caller holds the category's lock.
        patience: longer than any registration takes.
    """
    oldest = milliseconds() - patience / timedelta(milliseconds=1)
    unfinished = [
        version
        for version in versions_of(tracking, name)
        if not {LAST_TAG, CHAMPION_SINCE} & version.tags.keys()
        and (version.run_id == run_id or version.creation_timestamp < oldest)
    ]
    with_alias = aliases_of(tracking, name).values() if unfinished else ()
    for version in unfinished:
        if int(version.version) not in with_alias:
            delete_version(tracking, version)
    _delete_models_without_version(tracking, name, run_id)


def delete_version(tracking: Tracking, version: ModelVersion) -> None:
    """Delete a version with its logged model, and a registered model without other versions."""
    with tracking.errors(f"delete version {version.version} of {version.name}"):
        tracking.client.delete_model_version(version.name, str(version.version))
        if not versions_of(tracking, version.name):
            tracking.client.delete_registered_model(version.name)
    _delete_models_without_version(tracking, version.name, str(version.run_id))


def _delete_models_without_version(tracking: Tracking, name: str, run_id: str) -> None:
    # A version has no id of its logged model, but the location of its files.
    kept = {version.source for version in versions_of(tracking, name)}
    experiment = tracking.experiment(category_of(name))
    with tracking.errors(f"delete what a registration of {name} left"):
        for model in every_page(
            tracking.client.search_logged_models,
            experiment_ids=[experiment],
            filter_string=f"source_run_id = '{run_id}'",
        ):
            if model.artifact_location not in kept:
                tracking.client.delete_logged_model(model.model_id)
