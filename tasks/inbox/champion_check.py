"""A warning for a person: images that came as good parts and that the champion rejects."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from stillwatch.inference.inspector import Inspector
from stillwatch.settings import Settings
from stillwatch.tasks.registry.versions import (
    CHAMPION,
    fetch_bundle,
    model_name,
    version_with_alias,
)
from stillwatch.tasks.tracking.client import open_tracking
from stillwatch.tasks.training.slots import spare_device


@dataclass(frozen=True)
class Doubt:
    """A good part, by its folder, that the champion rejects."""

    path: str
    """POSIX, in the category's folder."""
    model: str
    """``models:/NAME/VERSION``."""
    p_value: float


@task(name="second look", task_run_name="second look {category}", cache_policy=NO_CACHE)
def doubted_normals(
    category: str, paths: Sequence[str], *, folder: Path, settings: Settings
) -> list[Doubt]:
    """Which of the new normals the category's champion rejects; none without a champion.

    Nothing but the warning follows from it: were images admitted or put into a part of the split by
    their scores, calibration would be void.

    Args:
        category: its name.
        paths: of the new normals, in ``folder``.
        folder: the category's.
        settings: name the registry and the device.

    Raises:
        TrackingError: the registry does not answer.
        BundleError: the champion's bundle is damaged.
    """
    tracking = open_tracking(settings)
    champion = version_with_alias(tracking, model_name(category), CHAMPION)
    if champion is None or not paths:
        return []
    from stillwatch.inference.torch_scorer import load_scorer

    model = f"models:/{model_name(category)}/{champion}"
    bundle = fetch_bundle(tracking, model)
    with spare_device(settings) as device:
        inspector = Inspector(
            bundle,
            load_scorer(bundle, device),
            max_megapixels=settings.images.max_megapixels,
        )
        images = {path: inspector.inspect_file(folder / path).image for path in paths}
    rejected = {path: image for path, image in images.items() if image.verdict == "reject"}
    return [Doubt(path, model, image.p_value) for path, image in rejected.items()]
