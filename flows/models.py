"""Opening a bundle from a folder or from the model registry."""

from pathlib import Path

from stillwatch.bundle import read_bundle
from stillwatch.flows.inspection import OpenedModel
from stillwatch.settings import Settings

REGISTRY_SCHEME = "models:/"


def open_model(source: str, settings: Settings) -> OpenedModel:
    """Open a bundle folder, or fetch the bundle of a registered model.

    Args:
        source: a folder, or ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        settings: name the registry.

    Raises:
        BundleError: the folder is not a sound bundle.
        TrackingError: the registry does not answer or holds no such model.
    """
    if not source.startswith(REGISTRY_SCHEME):
        bundle = read_bundle(Path(source))
        graph = bundle.info.graph
        return OpenedModel(bundle, None if graph is None else graph.model_version)
    # An edge box opens bundle folders without MLflow.
    from stillwatch.tasks.registry.versions import fetch_bundle, resolve_version
    from stillwatch.tasks.tracking.client import open_tracking

    tracking = open_tracking(settings)
    name, version = resolve_version(tracking, source)
    return OpenedModel(fetch_bundle(tracking, f"{REGISTRY_SCHEME}{name}/{version}"), version)
