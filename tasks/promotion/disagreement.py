"""Pictures of the test images on which champion and challenger disagree, side by side."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter

from stillwatch import pictures
from stillwatch.calibration import Verdict
from stillwatch.evaluation.evaluation import NORMAL
from stillwatch.inference.overlays import map_limits
from stillwatch.tasks.evaluation.gallery import embedded_jpeg, save_jpeg
from stillwatch.tasks.tracking.client import Tracking
from stillwatch.tasks.tracking.entries import JsonArtifact

MOST = 12
"""The largest number of images of which pictures are kept."""
_FOLDER = "disagreement"
_INDEX = JsonArtifact(
    "disagreement.json", "Delete the file in the run's artifacts: the report then goes without it."
)
_SEVERITY: dict[Verdict, int] = {"pass": 0, "review": 1, "reject": 2}
_GAP = 4
"""White pixels between the pictures of one image."""


@dataclass(frozen=True)
class Inspection:
    """The test images of a comparison, inspected by one detector."""

    items: Sequence[pictures.GalleryItem]
    reject: float
    """The threshold of the detector."""


class DisputedImage(BaseModel):
    """A test image with both verdicts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Path in the category."""
    defect_type: str
    champion: Verdict
    challenger: Verdict
    picture: str
    """Image, ground truth if available, overlay of the champion, overlay of the challenger."""


class Disagreement(BaseModel):
    """The images on which the verdicts of two versions differ."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    champion_version: int
    worse: int
    """Number of images on which the challenger's verdict is farther from the truth."""
    better: int
    images: tuple[DisputedImage, ...]
    """At most 12, those that the challenger judges worse first, and of these the defects first."""


def record_disagreement(
    tracking: Tracking,
    run_id: str,
    champion: Inspection,
    challenger: Inspection,
    *,
    champion_version: int,
) -> None:
    """Store the disagreement in the challenger's run, and replace an earlier one.

    ``champion`` and ``challenger`` have the same images in the same order.
    """
    pairs = sorted(
        (
            (before, after)
            for before, after in zip(champion.items, challenger.items, strict=True)
            if before.verdict != after.verdict
        ),
        key=lambda pair: (-_harm(*pair), pair[0].defect_type == NORMAL),
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
    """Read the disagreement of a challenger and a champion, with the pictures as ``data:`` URIs.

    None if the two were not compared. The record is read as ``JsonArtifact.parse``.
    """
    found = _INDEX.parse(tracking, run_id, TypeAdapter(Disagreement | None).validate_python)
    if found is None or found.champion_version != champion_version:
        return None
    if not found.images:
        return found
    with tracking.artifact(run_id, _FOLDER) as folder:
        try:
            images = tuple(
                image.model_copy(update={"picture": embedded_jpeg(folder, image.picture)})
                for image in found.images
            )
        except OSError as error:
            raise _INDEX.damaged(tracking, run_id, error) from error
    return found.model_copy(update={"images": images})


def _harm(before: pictures.GalleryItem, after: pictures.GalleryItem) -> int:
    """How many steps the challenger's verdict is farther from the truth, -2 to 2."""
    stricter = _SEVERITY[after.verdict] - _SEVERITY[before.verdict]
    return stricter if before.defect_type == NORMAL else -stricter


def _limits(inspection: Inspection) -> tuple[float, float]:
    return map_limits([item.anomaly_map for item in inspection.items], inspection.reject)


def _padded(picture: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """A picture with white below and a white gap to the next one."""
    margins = ((0, height - len(picture)), (0, _GAP), (0, 0))
    return np.pad(picture, margins, constant_values=255)


def _write(
    path: Path,
    before: pictures.GalleryItem,
    after: pictures.GalleryItem,
    limits: tuple[tuple[float, float], tuple[float, float]],
) -> DisputedImage:
    ours, theirs = (
        pictures.draw_thumbnails(before, limits[0]),
        pictures.draw_thumbnails(after, limits[1]),
    )
    shown = [ours.image, *([] if ours.truth is None else [ours.truth]), ours.overlay]
    shown.append(theirs.overlay)
    height = max(len(picture) for picture in shown)
    strip = np.hstack([_padded(picture, height) for picture in shown])[:, :-_GAP]
    return DisputedImage(
        name=before.name,
        defect_type=before.defect_type,
        champion=before.verdict,
        challenger=after.verdict,
        picture=save_jpeg(strip, path),
    )
