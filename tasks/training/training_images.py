"""Record which images a detector was trained on, and what these images look like.

The gate leaves the recorded images out of a comparison; the drift watch compares the brightness and
sharpness of new images with the recorded ones. Both read the record as ``JsonArtifact.parse``.
"""

from dataclasses import dataclass

from stillwatch.images.manifest import Manifest
from stillwatch.images.split import PARTS
from stillwatch.tasks.tracking.client import Tracking
from stillwatch.tasks.tracking.entries import JsonArtifact

TRAINING_IMAGES = JsonArtifact(
    "training_images.json", "Retrain with --force: the training records the file again."
)


@dataclass(frozen=True)
class TrainingAppearance:
    """Brightness and sharpness of the training images, one value per image."""

    brightness: tuple[float, ...]
    """Mean grey values, 0 to 255."""
    sharpness: tuple[float, ...]
    """Variances of the Laplacian."""


def record_training_images(tracking: Tracking, run_id: str, manifest: Manifest) -> None:
    """Store the MD5 digests, brightness and sharpness of train, validation and calibration."""
    rows = [row for row in manifest.rows if row.part in PARTS]
    record = {
        "md5": sorted(row.md5 for row in rows),
        "brightness": [row.mean for row in rows],
        "sharpness": [row.sharpness for row in rows],
    }
    TRAINING_IMAGES.write(tracking, run_id, record)


def read_training_images(tracking: Tracking, run_id: str) -> frozenset[str]:
    """The MD5 digests (hexadecimal) of the images that the detector of a run was trained on."""
    return TRAINING_IMAGES.parse(tracking, run_id, lambda record: frozenset(record["md5"]))


def read_appearance(tracking: Tracking, run_id: str) -> TrainingAppearance:
    """The brightness and sharpness of the images that the detector of a run was trained on."""
    return TRAINING_IMAGES.parse(
        tracking,
        run_id,
        lambda one: TrainingAppearance(tuple(one["brightness"]), tuple(one["sharpness"])),
    )
