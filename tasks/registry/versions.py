"""Reading the registry: which versions there are, and their bundles."""

import atexit
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from stillwatch.bundle import Bundle, read_bundle
from stillwatch.errors import TrackingError
from stillwatch.sections import unknown_name
from stillwatch.tasks.registry.approval import COMPARISON, standing
from stillwatch.tasks.tracking.client import BUNDLE, Tracking, every_page
from stillwatch.tasks.tracking.tags import METHOD

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
PREFIX = "stillwatch-"

_NO_SUCH_ALIAS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")


@dataclass(frozen=True)
class RegisteredVersion:
    """One line of ``stillwatch models``."""

    name: str
    version: int
    aliases: tuple[str, ...]
    detector: str
    image_auroc: float | None
    synthetic: bool
    """Its figures come from synthetic anomalies."""
    selected: str
    """How it was chosen, for example ``selected on test (best of 2)``."""
    data_version: str
    created: str
    """ISO 8601, UTC."""
    run_id: str
    pending: bool
    """It waits for a person's approval."""
    comparison: str
    """The gate's answer as a sentence; empty where it was not asked."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def model_name(category: str) -> str:
    """The registered model of a category."""
    return f"{PREFIX}{category}"


def category_of(name: str) -> str:
    """The category of a registered model."""
    return name.removeprefix(PREFIX)


def registered_categories(tracking: Tracking) -> list[str]:
    """Categories with a registered model, sorted.

    Raises:
        TrackingError: the registry does not answer.
    """
    return [category_of(model.name) for model in _models(tracking)]


def champions(tracking: Tracking) -> dict[str, int]:
    """The champion's version by category, without a request for each; those without are left out.

    Raises:
        TrackingError: the registry does not answer.
    """
    return {
        category_of(model.name): int(model.aliases[CHAMPION])
        for model in _models(tracking)
        if CHAMPION in model.aliases
    }


def registered_versions(tracking: Tracking) -> list[RegisteredVersion]:
    """Every version of every category, by name, newest first.

    Raises:
        TrackingError: the registry does not answer.
    """
    return [
        _described(version, model.aliases)
        for model in _models(tracking)
        for version in versions_of(tracking, model.name)
    ]


def versions_of(tracking: Tracking, name: str) -> list[ModelVersion]:
    """The versions of one registered model, newest first; none if there is no such model.

    Raises:
        TrackingError: the registry does not answer.
    """
    with tracking.errors(f"list the versions of {name}"):
        found = every_page(
            tracking.client.search_model_versions,
            filter_string=f"name = '{name}'",
            max_results=10000,
        )
    return _newest_first(found)


def versions_tagged(tracking: Tracking, key: str, value: str) -> list[ModelVersion]:
    """The versions of all categories that carry a tag, newest first.

    Raises:
        TrackingError: the registry does not answer.
    """
    with tracking.errors(f"list the versions with {key} {value}"):
        found = every_page(
            tracking.client.search_model_versions,
            filter_string=f"tags.`{key}` = '{value}'",
            max_results=10000,
        )
    return _newest_first([version for version in found if version.name.startswith(PREFIX)])


def registered_version(tracking: Tracking, category: str, version: int) -> ModelVersion:
    """One version of a category's model.

    Raises:
        TrackingError: there is no such version, or the registry does not answer.
    """
    name = model_name(category)
    found = {int(one.version): one for one in versions_of(tracking, name)}
    if version not in found:
        raise TrackingError(
            f"{name} has no version {version}. It has {', '.join(map(str, sorted(found)))}."
        )
    return found[version]


def ensure_registered(tracking: Tracking, category: str) -> None:
    """Refuse a category of which nothing is registered.

    Raises:
        TrackingError: none is, or not of this one; or the registry does not answer.
    """
    ensure_known(category, registered_categories(tracking))


def ensure_known(category: str, known: list[str]) -> None:
    """Refuse a category that is not among those that there are.

    Raises:
        TrackingError: there are none, or it is not one of them.
    """
    if not known:
        raise TrackingError("nothing is registered yet. 'stillwatch retrain' registers winners.")
    if category not in known:
        raise TrackingError(f"{unknown_name('category', category, known)}.")


def version_with_alias(tracking: Tracking, name: str, alias: str) -> int | None:
    """The version that an alias points to; None when there is no such alias.

    Raises:
        TrackingError: the registry does not answer.
    """
    with tracking.errors(f"look up {name}@{alias}"):
        try:
            return int(tracking.client.get_model_version_by_alias(name, alias).version)
        except MlflowException as error:
            # MLflow calls a missing alias an invalid parameter.
            if error.error_code in _NO_SUCH_ALIAS:
                return None
            raise


def fetch_bundle(tracking: Tracking, source: str, into: Path | None = None) -> Bundle:
    """The bundle of a registered model.

    Args:
        tracking: the registry.
        source: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        into: as for ``version_file``.

    Raises:
        TrackingError: there is no such model, version or alias, or the registry does not answer.
        BundleError: the bundle in it is damaged.
    """
    name, version = resolve_version(tracking, source)
    return read_bundle(version_file(tracking, name, version, f"artifacts/{BUNDLE}", into))


def version_file(
    tracking: Tracking, name: str, version: int, path: str, into: Path | None = None
) -> Path:
    """A file or folder of a registered model.

    Args:
        tracking: the registry; a local one hands out the original.
        name: of the model.
        version: of the model.
        path: in the model's folder.
        into: folder for what has to be downloaded; None: one that is removed when the process ends.

    Raises:
        TrackingError: there is no such version or file, or the registry does not answer.
    """
    with tracking.errors(f"hand out models:/{name}/{version}"):
        location = tracking.client.get_model_version_download_uri(name, str(version))
        folder = None if tracking.local_files else str(into or _folder_of_this_process())
        found = mlflow.artifacts.download_artifacts(
            f"{location}/{path}", dst_path=folder, tracking_uri=tracking.uri
        )
    return Path(found)


def resolve_version(tracking: Tracking, source: str) -> tuple[str, int]:
    """Name and version that ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` stands for.

    Raises:
        TrackingError: neither form, no such alias, or the registry does not answer.
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
    # Not every database minds capitals in such a pattern.
    ours = [model for model in found if model.name.startswith(PREFIX)]
    return sorted(ours, key=lambda model: model.name)


def _described(version: ModelVersion, aliases: dict[str, str]) -> RegisteredVersion:
    tags = version.tags
    synthetic = tags.get("stillwatch.synthetic") == "true"
    auroc = tags.get("synthetic_image_auroc" if synthetic else "image_auroc")
    champion = int(aliases[CHAMPION]) if CHAMPION in aliases else None
    return RegisteredVersion(
        name=version.name,
        version=int(version.version),
        aliases=tuple(sorted(a for a, v in aliases.items() if int(v) == int(version.version))),
        detector=tags.get(METHOD, ""),
        image_auroc=float(auroc) if auroc else None,
        synthetic=synthetic,
        selected=tags.get("stillwatch.selected_on_test", ""),
        data_version=tags.get("stillwatch.data_version", ""),
        created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(
            timespec="seconds"
        ),
        run_id=version.run_id or "",
        pending=standing(version, champion) == "pending",
        comparison=tags.get(COMPARISON, ""),
    )
