"""Store small pictures of the test images in the run, for the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from stillwatch import pictures
from stillwatch.calibration import Verdict
from stillwatch.errors import TrackingError
from stillwatch.files import storage_errors, write_json
from stillwatch.inference.overlays import map_limits
from stillwatch.tasks.html import data_uri
from stillwatch.tasks.tracking.client import Tracking

GALLERY = "gallery"
"""Folder of the pictures among the artifacts of a run."""
STRIP = "strip.jpg"
"""In that folder: four images side by side, each with its verdict."""
MOST = 24
_INDEX = "gallery.json"

Mistake = Literal["missed", "false_alarm"]


class ShownImage(BaseModel):
    """One test image; its pictures are files beside the index."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Path in the category."""
    defect_type: str
    mistake: Mistake | None
    """``missed``: an anomaly that passes; ``false_alarm``: a normal that is rejected."""
    score: float
    p_value: float
    verdict: Verdict
    image: str
    truth: str | None
    """The image with its ground truth outlined; None where there is none."""
    overlay: str


def write_shown_images(
    folder: Path, items: Sequence[pictures.GalleryItem], *, reject: float
) -> None:
    """Write the pictures of at most 24 test images, mistakes first, their index, and a strip.

    Args:
        folder: is made.
        items: all test images, at least one.
        reject: the threshold above which an image is rejected.

    Raises:
        StorageError: the folder cannot be written to.
    """
    limits = map_limits([item.anomaly_map for item in items], reject)
    with storage_errors(folder):
        folder.mkdir(parents=True)
    shown = [
        _write(folder, number, item, limits)
        for number, item in enumerate(pictures.choose_items(items, MOST, reject))
    ]
    save_jpeg(pictures.draw_strip(pictures.one_of_each(items), limits, reject), folder / STRIP)
    write_json(folder / _INDEX, [one.model_dump(mode="json") for one in shown])


def read_shown_images(tracking: Tracking, run_id: str) -> tuple[ShownImage, ...]:
    """Read the pictures of a run as ``data:`` URIs; empty if the run has none.

    Raises:
        TrackingError: the index or a picture is damaged.
    """
    if GALLERY not in tracking.artifact_names(run_id):
        return ()
    with tracking.artifact(run_id, GALLERY) as folder:
        try:
            index = json.loads((folder / _INDEX).read_bytes())
            return tuple(_embedded(folder, ShownImage.model_validate(one)) for one in index)
        except (OSError, ValueError) as error:
            raise TrackingError(
                f"{GALLERY} of run {run_id} at {tracking.uri} is damaged ({error}). Delete the "
                "folder in the run's artifacts: the report then goes without pictures."
            ) from error


def embedded_jpeg(folder: Path, name: str) -> str:
    """The ``data:`` URI of a picture.

    Args:
        folder: of the picture.
        name: of the file; a path to another folder is ignored, since the name comes from the store.

    Raises:
        OSError: the file cannot be read.
    """
    return data_uri((folder / Path(name).name).read_bytes(), "image/jpeg")


def save_jpeg(pixels: NDArray[np.uint8], path: Path) -> str:
    """Save a picture, uint8 (H, W, 3), and return its file name.

    Raises:
        StorageError: the file cannot be written.
    """
    with storage_errors(path):
        # Full colour resolution: outlines are one or two pixels wide.
        Image.fromarray(pixels).save(path, quality=85, subsampling=0)
    return path.name


def _embedded(folder: Path, shown: ShownImage) -> ShownImage:
    return shown.model_copy(
        update={
            "image": embedded_jpeg(folder, shown.image),
            "truth": None if shown.truth is None else embedded_jpeg(folder, shown.truth),
            "overlay": embedded_jpeg(folder, shown.overlay),
        }
    )


def _write(
    folder: Path, number: int, item: pictures.GalleryItem, limits: tuple[float, float]
) -> ShownImage:
    thumbnails = pictures.draw_thumbnails(item, limits)
    return ShownImage(
        name=item.name,
        defect_type=item.defect_type,
        mistake="missed" if item.false_pass else "false_alarm" if item.false_reject else None,
        score=item.score,
        p_value=item.p_value,
        verdict=item.verdict,
        image=save_jpeg(thumbnails.image, folder / f"{number:02}-image.jpg"),
        truth=None
        if thumbnails.truth is None
        else save_jpeg(thumbnails.truth, folder / f"{number:02}-truth.jpg"),
        overlay=save_jpeg(thumbnails.overlay, folder / f"{number:02}-overlay.jpg"),
    )
