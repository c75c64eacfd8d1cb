"""Open a detector by what a person types: a category, a registered model, or a bundle folder."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from stillwatch.bundle import INFO_FILE
from stillwatch.errors import SettingsError, TrackingError
from stillwatch.inference.files import OpenedModel
from stillwatch.settings import Settings

if TYPE_CHECKING:  # an edge box has no MLflow
    from stillwatch.tasks.tracking.client import Tracking

REGISTRY_SCHEME = "models:/"


def open_model(source: str, settings: Settings, version: int | None = None) -> OpenedModel:
    """Open the detector that a person names.

    Args:
        source: a category, ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, or a bundle folder as
            ``names_folder`` says.
        version: of the category; None: its champion.

    Raises:
        SettingsError: a version is given with a folder or a registered model.
        BundleError: the folder is not a sound bundle.
        TrackingError: the registry has no such category, model or version.
    """
    if version is None and names_folder(source):
        return OpenedModel.from_folder(Path(source))
    if version is not None and "/" in source:
        raise SettingsError(f"{source}: names one detector already. Leave --version out.")
    if not source.startswith(REGISTRY_SCHEME):
        return open_registered(source, settings, version)
    from stillwatch.tasks.registry.versions import resolve_version
    from stillwatch.tasks.tracking.client import open_tracking

    tracking = open_tracking(settings)
    return _fetched(tracking, *resolve_version(tracking, source))


def open_registered(category: str, settings: Settings, version: int | None = None) -> OpenedModel:
    """Open a registered version of a category, or else its champion.

    Raises:
        TrackingError: the registry has no such category, version or champion.
        BundleError: the bundle is damaged.
    """
    from stillwatch.tasks.registry.versions import (
        CHAMPION,
        ensure_registered,
        model_name,
        registered_version,
        version_with_alias,
    )
    from stillwatch.tasks.tracking.client import open_tracking

    tracking = open_tracking(settings)
    ensure_registered(tracking, category)
    name = model_name(category)
    if version is not None:
        registered_version(tracking, category, version)
        return _fetched(tracking, name, version)
    champion = version_with_alias(tracking, name, CHAMPION)
    if champion is None:
        raise _no_champion(tracking, category)
    return _fetched(tracking, name, champion)


def names_folder(source: str) -> bool:
    """Whether a name is that of a bundle folder, and not of a category or registered model.

    A name with a slash is a folder, and so is a folder here that holds ``bundle.json``. Without
    MLflow, which a category needs, every name is a folder.
    """
    if source.startswith(REGISTRY_SCHEME):
        return False
    return "/" in source or (Path(source) / INFO_FILE).is_file() or find_spec("mlflow") is None


def _fetched(tracking: "Tracking", name: str, version: int) -> OpenedModel:
    from stillwatch.tasks.registry.versions import fetch_bundle

    return OpenedModel(fetch_bundle(tracking, name, version), version)


def _no_champion(tracking: "Tracking", category: str) -> TrackingError:
    """The error that a category has no champion; it names the newest version and what it finds."""
    from stillwatch.tasks.evaluation.notes import found_defects
    from stillwatch.tasks.evaluation.result import read_result
    from stillwatch.tasks.registry.versions import described_version, model_name, versions_of

    newest = next(iter(versions_of(tracking, model_name(category))), None)
    if newest is None:
        return TrackingError(
            f"{category} has no version any more. 'stillwatch retrain --category {category}' "
            "registers one."
        )
    version = described_version(tracking, category, int(newest.version))
    states = {"pending": "waits for approval", "refused": "was refused by the gate"}
    state = "is registered" if version.approval is None else states[version.approval]
    found = found_defects(read_result(tracking, version.run_id))
    return TrackingError(
        f"{category} has no champion yet; version {version.version} {state} ({found}). Try it: "
        f"'stillwatch inspect {category} --version {version.version} IMAGES'."
    )
