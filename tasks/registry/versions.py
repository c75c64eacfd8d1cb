"""Read registered versions and their bundles, and tag versions."""

import atexit
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from stillwatch.bundle import Bundle, read_bundle
from stillwatch.errors import TrackingError
from stillwatch.tasks.registry.approval import (
    GATE,
    NOT_PROMOTED,
    ApprovalState,
    approval_state,
)
from stillwatch.tasks.tracking.client import BUNDLE, Tracking, every_page
from stillwatch.tasks.tracking.tags import DATA_VERSION, METHOD, SELECTED, SYNTHETIC
from stillwatch.text import unknown_name

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
PREFIX = "stillwatch-"

# MLflow reports a missing alias, and a name that no model may have, as an invalid parameter.
_NOT_THERE = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")


@dataclass(frozen=True)
class RegisteredVersion:
    """A registered version: one line of ``stillwatch models``."""

    name: str
    version: int
    aliases: tuple[str, ...]
    detector: str
    image_auroc: float | None
    synthetic: bool
    """The figures come from synthetic anomalies."""
    selected: str
    """How the version was chosen, for example ``selected on test (best of 2)``."""
    data_version: str
    created: str
    """ISO 8601, UTC."""
    run_id: str
    gate: str
    """The gate's decision as the tag ``GATE``; empty for a version that is not judged yet."""
    approval: ApprovalState | None
    """Whether a person can still make the version champion; None for present and past champions."""
    not_promoted: str
    """Why the version did not become champion automatically; empty for present and past champions.
    """

    @property
    def alias(self) -> str | None:
        """``champion`` or ``challenger``; None if the version has neither alias."""
        return next((alias for alias in (CHAMPION, CHALLENGER) if alias in self.aliases), None)


def model_name(category: str) -> str:
    """The registered model of a category."""
    return f"{PREFIX}{category}"


def category_of(name: str) -> str:
    """The category of a registered model."""
    return name.removeprefix(PREFIX)


def registered_categories(tracking: Tracking) -> list[str]:
    """Categories with a registered model, sorted."""
    return [category_of(model.name) for model in _models(tracking)]


def champions(tracking: Tracking) -> dict[str, int]:
    """The version of the champion by category, for all categories with a champion."""
    return {
        category_of(model.name): int(model.aliases[CHAMPION])
        for model in _models(tracking)
        if CHAMPION in model.aliases
    }


def registered_versions(tracking: Tracking) -> list[RegisteredVersion]:
    """Every version of every category, by name, newest first."""
    found = [
        (version, model)
        for model in _models(tracking)
        for version in versions_of(tracking, model.name)
    ]
    runs = tracking.runs({str(version.run_id) for version, _ in found})
    return [
        _described(version, model.aliases, runs.get(str(version.run_id)))
        for version, model in found
    ]


def described_version(tracking: Tracking, category: str, version: int) -> RegisteredVersion:
    """Describe one version of a category, which must exist."""
    name = model_name(category)
    found = registered_version(tracking, category, version)
    run_id = str(found.run_id)
    return _described(found, aliases_of(tracking, name), tracking.runs([run_id]).get(run_id))


def versions_of(tracking: Tracking, name: str) -> list[ModelVersion]:
    """The versions of one registered model, newest first; empty if there is no such model."""
    with tracking.errors(f"list the versions of {name}"):
        found = every_page(
            tracking.client.search_model_versions,
            filter_string=f"name = '{name}'",
            max_results=10000,
        )
    return _newest_first(found)


def versions_tagged(tracking: Tracking, key: str, value: str) -> list[ModelVersion]:
    """The versions of all categories with a tag, newest first."""
    with tracking.errors(f"list the versions with {key} {value}"):
        found = every_page(
            tracking.client.search_model_versions,
            filter_string=f"tags.`{key}` = '{value}'",
            max_results=10000,
        )
    return _newest_first([version for version in found if version.name.startswith(PREFIX)])


def version_numbers(tracking: Tracking, name: str) -> set[int]:
    """The numbers of all versions of one registered model."""
    return {int(version.version) for version in versions_of(tracking, name)}


def tag_version(tracking: Tracking, version: ModelVersion, tags: Mapping[str, str]) -> None:
    """Set tags of a version, in their order."""
    name, number = version.name, str(version.version)
    with tracking.errors(f"tag version {number} of {name}"):
        for key, value in tags.items():
            tracking.client.set_model_version_tag(name, number, key, value)


def remove_tags(tracking: Tracking, version: ModelVersion, keys: Iterable[str]) -> None:
    """Remove the tags of a version that it has of these."""
    name, number = version.name, str(version.version)
    with tracking.errors(f"remove tags of version {number} of {name}"):
        for key in keys:
            if key in version.tags:
                tracking.client.delete_model_version_tag(name, number, key)


def set_alias(tracking: Tracking, name: str, alias: str, version: int | None) -> None:
    """Let an alias of a registered model name a version; None: remove the alias."""
    with tracking.errors(f"set the alias {alias} of {name}"):
        if version is None:
            tracking.client.delete_registered_model_alias(name, alias)
        else:
            tracking.client.set_registered_model_alias(name, alias, str(version))


def registered_version(tracking: Tracking, category: str, version: int) -> ModelVersion:
    """One version of a category's model; a ``TrackingError`` if there is no such version."""
    name = model_name(category)
    found = {int(one.version): one for one in versions_of(tracking, name)}
    if version not in found:
        numbers = ", ".join(map(str, sorted(found)))
        registered = f"It has {numbers}." if numbers else "No version is registered."
        raise TrackingError(f"{category} has no version {version}. {registered}")
    return found[version]


def ensure_registered(tracking: Tracking, category: str) -> None:
    """Raise a ``TrackingError`` for a category without a registered model."""
    ensure_known(category, registered_categories(tracking))


def ensure_known(category: str, known: list[str]) -> None:
    """Raise a ``TrackingError`` for a category that is not among the known ones."""
    if not known:
        raise TrackingError("nothing is registered yet. 'stillwatch retrain' registers winners.")
    if category not in known:
        raise TrackingError(f"{unknown_name('category', category, known)}.")


def aliases_of(tracking: Tracking, name: str) -> dict[str, int]:
    """Alias -> version of one registered model; empty if there is no such model."""
    with tracking.errors(f"list the aliases of {name}"):
        try:
            aliases = tracking.client.get_registered_model(name).aliases
        except MlflowException as error:
            if error.error_code in _NOT_THERE:
                return {}
            raise
    return {alias: int(version) for alias, version in aliases.items()}


def version_with_alias(tracking: Tracking, name: str, alias: str) -> int | None:
    """The version that an alias names; None if there is no such alias."""
    # Not by aliases_of: with the model, MLflow reads all of its versions.
    with tracking.errors(f"look up {name}@{alias}"):
        try:
            return int(tracking.client.get_model_version_by_alias(name, alias).version)
        except MlflowException as error:
            if error.error_code in _NOT_THERE:
                return None
            raise


def fetch_bundle(tracking: Tracking, name: str, version: int, into: Path | None = None) -> Bundle:
    """The bundle of a registered model; ``into`` is as for ``version_file``.

    Raises:
        BundleError: the bundle is damaged.
    """
    return read_bundle(version_file(tracking, name, version, f"artifacts/{BUNDLE}", into))


def version_file(
    tracking: Tracking, name: str, version: int, path: str, into: Path | None = None
) -> Path:
    """A file or folder of a registered model; of a local registry the original.

    Args:
        path: in the model's folder; empty: the whole folder.
        into: folder for downloads; None: a folder that is removed when the process ends.
    """
    with tracking.errors(f"download models:/{name}/{version}"):
        location = tracking.client.get_model_version_download_uri(name, str(version))
        folder = None if tracking.local_files else str(into or _folder_of_this_process())
        found = mlflow.artifacts.download_artifacts(
            f"{location}/{path}".rstrip("/"), dst_path=folder, tracking_uri=tracking.uri
        )
    return Path(found)


def resolve_version(tracking: Tracking, source: str) -> tuple[str, int]:
    """Split ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` into name and version.

    Raises:
        TrackingError: ``source`` has neither form, or there is no such alias.
    """
    rest = source.removeprefix("models:/")
    name, at, alias = rest.partition("@")
    if at:
        version = version_with_alias(tracking, name, alias)
        if version is None:
            raise TrackingError(
                f"{source}: no such model or alias at {tracking.uri}. 'stillwatch models' lists "
                "what is registered."
            )
        return name, version
    name, _, number = rest.rpartition("/")
    if not name or not number.isdigit():
        raise TrackingError(
            f"{source}: names no version. Write models:/NAME/VERSION, for example "
            f"models:/{PREFIX}plate/1, or models:/NAME@champion."
        )
    return name, int(number)


def _folder_of_this_process() -> Path:
    folder = tempfile.mkdtemp(prefix="stillwatch-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _newest_first(versions: Iterable[ModelVersion]) -> list[ModelVersion]:
    return sorted(versions, key=lambda version: int(version.version), reverse=True)


def _models(tracking: Tracking) -> list[RegisteredModel]:
    with tracking.errors("list the registered models"):
        found = every_page(
            tracking.client.search_registered_models,
            filter_string=f"name LIKE '{PREFIX}%'",
            max_results=1000,
        )
    # Some databases ignore upper and lower case in such a pattern.
    ours = [model for model in found if model.name.startswith(PREFIX)]
    return sorted(ours, key=lambda model: model.name)


def _described(
    version: ModelVersion, aliases: Mapping[str, str | int], run: Run | None
) -> RegisteredVersion:
    number = int(version.version)
    tags, metrics = ({}, {}) if run is None else (run.data.tags, run.data.metrics)
    synthetic = tags.get(SYNTHETIC) == "true"
    champion = int(aliases[CHAMPION]) if CHAMPION in aliases else None
    return RegisteredVersion(
        name=version.name,
        version=number,
        aliases=tuple(sorted(alias for alias, named in aliases.items() if int(named) == number)),
        detector=tags.get(METHOD, ""),
        image_auroc=metrics.get("synthetic_image_auroc" if synthetic else "image_auroc"),
        synthetic=synthetic,
        selected=tags.get(SELECTED, ""),
        data_version=tags.get(DATA_VERSION, ""),
        created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(
            timespec="seconds"
        ),
        run_id=version.run_id or "",
        gate=version.tags.get(GATE, ""),
        approval=approval_state(category_of(version.name), version, champion),
        not_promoted=version.tags.get(NOT_PROMOTED, ""),
    )
