"""The test images on which champion and challenger disagree: small pictures, side by side."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from stillwatch import pictures
from stillwatch.calibration import Verdict
from stillwatch.evaluation.evaluation import NORMAL
from stillwatch.files import storage_errors
from stillwatch.tasks.html import data_uri
from stillwatch.tasks.tracking.client import Tracking
from stillwatch.tasks.tracking.entries import JsonArtifact

MOST = 12
"""Images of which pictures are kept."""
_FOLDER = "disagreement"
_INDEX = JsonArtifact(
    "disagreement.json", "Delete the file in the run's artifacts: the report then goes without it."
)
_SEVERITY: dict[Verdict, int] = {"pass": 0, "review": 1, "reject": 2}
_GAP = 4
"""White pixels between the pictures of one image."""


@dataclass(frozen=True)
class Inspection:
    """What one detector made of the test images that are compared on."""

    items: Sequence[pictures.GalleryItem]
    reject: float
    """Its threshold."""


class DisputedImage(BaseModel):
    """One test image and both verdicts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Path in the category."""
    defect_type: str
    champion: Verdict
    challenger: Verdict
    picture: str
    """Image, ground truth if there is any, overlay of the champion, overlay of the challenger."""


class Disagreement(BaseModel):
    """All images on which the verdicts of two versions differ."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    champion_version: int
    worse: int
    """Images on which the challenger's verdict is farther from the truth."""
    better: int
    images: tuple[DisputedImage, ...]
    """At most 12 of them, those that the challenger judges worse first."""


def record_disagreement(
    tracking: Tracking,
    run_id: str,
    champion: Inspection,
    challenger: Inspection,
    *,
    champion_version: int,
) -> None:
    """Put what two versions disagree about into the challenger's run, over what is there.

    Args:
        tracking: the store.
        run_id: of the challenger.
        champion: on the same images as the challenger, in the same order.
        challenger: of ``run_id``.
        champion_version: of the registry.

    Raises:
        TrackingError: the store does not answer or cannot be written.
        StorageError: the temporary folder cannot be written.
    """
    pairs = sorted(
        (
            (before, after)
            for before, after in zip(champion.items, challenger.items, strict=True)
            if before.verdict != after.verdict
        ),
        key=lambda pair: -_harm(*pair),
    )
    shown: tuple[DisputedImage, ...] = ()
    if pairs:
        limits = _limits(champion), _limits(challenger)
        with tempfile.TemporaryDirectory(prefix="stillwatch-") as made:
            shown = tuple(
                _write(Path(made) / f"{champion_version}-{number:02}.jpg", *pair, limits)
                for number, pair in enumerate(pairs[:MOST])
            )
            tracking.log_folder(run_id, Path(made), _FOLDER)
    harms = [_harm(*pair) for pair in pairs]
    disagreement = Disagreement(
        champion_version=champion_version,
        worse=sum(harm > 0 for harm in harms),
        better=sum(harm < 0 for harm in harms),
        images=shown,
    )
    _INDEX.write(tracking, run_id, disagreement.model_dump(mode="json"))


def read_disagreement(
    tracking: Tracking, run_id: str, champion_version: int | None
) -> Disagreement | None:
    """What a run's version and a champion disagree about, with ``data:`` addresses as pictures.

    Args:
        tracking: the store.
        run_id: of the challenger.
        champion_version: that it was compared with; None: with none.

    Returns:
        None: they were not compared, or by a stillwatch that kept no pictures.

    Raises:
        TrackingError: what is kept is damaged, or the store does not answer.
    """
    content = _INDEX.read(tracking, run_id)
    if content is None:
        return None
    try:
        found = Disagreement.model_validate(content)
    except ValidationError as error:
        raise _INDEX.damaged(tracking, run_id, error) from error
    if found.champion_version != champion_version:
        return None
    if not found.images:
        return found
    with tracking.artifact(run_id, _FOLDER) as folder:
        try:
            images = tuple(_embedded(folder, image) for image in found.images)
        except OSError as error:
            raise _INDEX.damaged(tracking, run_id, error) from error
    return found.model_copy(update={"images": images})


def _embedded(folder: Path, image: DisputedImage) -> DisputedImage:
    # Whoever may write to the store shall not have other files of this machine shown.
    content = (folder / Path(image.picture).name).read_bytes()
    return image.model_copy(update={"picture": data_uri(content, "image/jpeg")})


def _harm(before: pictures.GalleryItem, after: pictures.GalleryItem) -> int:
    """How many steps from pass to reject the challenger is farther from the truth: -2 to 2."""
    stricter = _SEVERITY[after.verdict] - _SEVERITY[before.verdict]
    return stricter if before.defect_type == NORMAL else -stricter


def _limits(inspection: Inspection) -> tuple[float, float]:
    return pictures.map_limits([item.anomaly_map for item in inspection.items], inspection.reject)


def _write(
    path: Path,
    before: pictures.GalleryItem,
    after: pictures.GalleryItem,
    limits: tuple[tuple[float, float], tuple[float, float]],
) -> DisputedImage:
    ours, theirs = pictures.draw_tiles(before, limits[0]), pictures.draw_tiles(after, limits[1])
    tiles = [ours.image, *([] if ours.truth is None else [ours.truth]), ours.overlay]
    gap = np.full((ours.image.shape[0], _GAP, 3), 255, np.uint8)
    strip = np.hstack([*(part for tile in tiles for part in (tile, gap)), theirs.overlay])
    with storage_errors(path):
        # Full colour resolution: outlines are one or two pixels wide.
        Image.fromarray(strip).save(path, quality=85, subsampling=0)
    return DisputedImage(
        name=before.name,
        defect_type=before.defect_type,
        champion=before.verdict,
        challenger=after.verdict,
        picture=path.name,
    )
