"""Find new normals that the champion rejects, to warn a person."""

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
class RejectedNormal:
    """An image that arrived as a normal and that the champion rejects."""

    path: str
    """POSIX, in the category's folder."""
    model: str
    """``models:/NAME/VERSION``."""
    p_value: float


@task(name="champion check", task_run_name="champion check {category}", cache_policy=NO_CACHE)
def rejected_normals(
    category: str, paths: Sequence[str], *, folder: Path, settings: Settings
) -> list[RejectedNormal]:
    """The new normals that the category's champion rejects; none without a champion.

    The result is only for a warning. If scores decided about admission or about the split,
    calibration would be void.

    Args:
        paths: of the new normals, POSIX, relative to ``folder``.

    Raises:
        BundleError: the champion's bundle is damaged.
    """
    tracking = open_tracking(settings)
    name = model_name(category)
    champion = version_with_alias(tracking, name, CHAMPION)
    if champion is None or not paths:
        return []
    from stillwatch.inference.torch_scorer import load_scorer

    bundle = fetch_bundle(tracking, name, champion)
    with spare_device(settings) as device:
        inspector = Inspector(
            bundle,
            load_scorer(bundle, device),
            max_megapixels=settings.images.max_megapixels,
        )
        images = {path: inspector.inspect_file(folder / path).image for path in paths}
    return [
        RejectedNormal(path, f"models:/{name}/{champion}", image.p_value)
        for path, image in images.items()
        if image.verdict == "reject"
    ]
