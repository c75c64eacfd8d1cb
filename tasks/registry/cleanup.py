"""What a registration that was cut off has left in the registry is removed before the next one."""

from datetime import timedelta

from mlflow.entities.model_registry import ModelVersion

from stillwatch.tasks.promotion.history import named_versions
from stillwatch.tasks.registry.approval import CHAMPION_SINCE
from stillwatch.tasks.registry.versions import category_of, versions_of
from stillwatch.tasks.tracking.client import Tracking, every_page
from stillwatch.tasks.tracking.entries import milliseconds

PARITY = "stillwatch.parity"
"""Tag that a registration writes last: a version without it was never finished."""


def remove_unfinished(tracking: Tracking, name: str, run_id: str, patience: timedelta) -> None:
    """Delete versions that were never finished, and models that never became a version.

    Another machine may be registering in the same store at this moment, so that of other runs only
    what is old enough is touched. What has an alias, or is or was champion, is left alone whatever
    its tags say: anybody may edit them.

    Args:
        tracking: the store.
        name: of the registered model.
        run_id: what it left is deleted whatever its age; the caller must hold the category's lock.
        patience: longer than any registration takes.

    Raises:
        TrackingError: the registry does not answer, or the history of promotions is damaged.
    """
    oldest = milliseconds() - patience / timedelta(milliseconds=1)
    abandoned = [
        version
        for version in versions_of(tracking, name)
        if not {PARITY, CHAMPION_SINCE} & version.tags.keys()
        and (version.run_id == run_id or version.creation_timestamp < oldest)
    ]
    used = _in_use(tracking, name) if abandoned else frozenset()
    for version in abandoned:
        if int(version.version) not in used:
            delete_version(tracking, version)
    _delete_models_without_version(tracking, name, run_id)


def delete_version(tracking: Tracking, version: ModelVersion) -> None:
    """Delete a version with its model, and the registered model if it was the only version.

    Raises:
        TrackingError: the registry does not answer.
    """
    with tracking.errors(f"delete version {version.version} of {version.name}"):
        tracking.client.delete_model_version(version.name, str(version.version))
        if not versions_of(tracking, version.name):
            tracking.client.delete_registered_model(version.name)
    _delete_models_without_version(tracking, version.name, str(version.run_id))


def _in_use(tracking: Tracking, name: str) -> frozenset[int]:
    with tracking.errors(f"list the aliases of {name}"):
        aliases = tracking.client.get_registered_model(name).aliases
    return named_versions(tracking, category_of(name)).union(map(int, aliases.values()))


def _delete_models_without_version(tracking: Tracking, name: str, run_id: str) -> None:
    # The registry keeps no id of a version's model, but where its files are.
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
