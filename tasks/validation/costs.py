"""Record and estimate how long training and inspection take on this machine.

Both times are taken to grow with the pixels: of the tiles that an epoch trains on (that a memory is
chosen from), and of the tiles of an image. This is rough, and needs no torch.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from stillwatch.bundle import BundleInfo
from stillwatch.files import write_json
from stillwatch.geometry import Geometry, Shape
from stillwatch.sections import Section
from stillwatch.settings import MEASURED_EPOCHS, Settings, TrainingSettings


class Cost(Section):
    """The times of one detector, per megapixel of tiles."""

    training_seconds: float = Field(ge=0, description="per megapixel of the tiles it sees")
    most_epochs: int = Field(1, ge=1, description="it sees the tiles of so many epochs, at most")
    inspection_ms: float = Field(ge=0, description="per megapixel of an image's tiles")


TWO_CORES = {
    name: Cost(training_seconds=training_seconds, inspection_ms=inspection_ms)
    for name, training_seconds, inspection_ms in (
        ("asymmetric_student_teacher", 30, 1300),
        ("autoencoder", 38, 850),
        ("destseg", 60, 1500),
        ("dinomaly", 35, 2300),
        ("efficient_ad", 60, 1300),
        ("multiresolution", 35, 1200),
        ("rd_plus_plus", 55, 1300),
        ("reverse_distillation", 48, 1190),
        ("stfpm", 51, 1270),
        ("style_distillation", 61, 2190),
        ("uninformed_students", 60, 1300),
    )
} | {"patchcore": Cost(training_seconds=2, inspection_ms=1320, most_epochs=MEASURED_EPOCHS)}
"""On two CPU cores, profile laptop, once measured on the sample category ``plate`` (3.5 megapixels
an epoch); of ``asymmetric_student_teacher``, ``destseg``, ``efficient_ad``, ``rd_plus_plus`` and
``uninformed_students`` guessed from times on one thread, of ``dinomaly`` from single steps with a
ViT-S. A first guess only: the times of the machine's own trainings replace it."""


def record_cost(settings: Settings, detector: str, cost: Cost) -> None:
    """Keep the times of a detector's last training and evaluation on this machine.

    Categories with other settings of the detector have times of their own.
    """
    write_json(_file(settings, detector), cost.model_dump(mode="json"))


def recorded_cost(settings: Settings, detector: str) -> Cost | None:
    """What ``record_cost`` kept for these settings; None if nothing, or if the file is damaged."""
    try:
        return Cost.model_validate_json(_file(settings, detector).read_bytes())
    except (OSError, ValidationError):
        return None


def measured_cost(
    info: BundleInfo,
    settings: TrainingSettings,
    *,
    trained: Sequence[Shape],
    inspected: Sequence[Shape],
    ms_per_image: float,
) -> Cost:
    """The times of a training and of an evaluation.

    Args:
        info: of the trained bundle.
        settings: that it was trained with.
        trained: shapes of the scaled training images, at least one.
        inspected: shapes of the scaled images of the evaluation, at least one.
    """
    seconds = info.training.seconds + sum(info.training.taken_over.values())
    most_epochs = 1 if info.training.losses else MEASURED_EPOCHS
    pixels = training_megapixels(trained, info.geometry, settings, most_epochs)
    per_image = tile_count(inspected, info.geometry) / len(inspected) * megapixels(info.geometry)
    return Cost(
        training_seconds=seconds / pixels,
        most_epochs=most_epochs,
        inspection_ms=ms_per_image / per_image,
    )


def training_megapixels(
    shapes: Iterable[Shape], geometry: Geometry, settings: TrainingSettings, most_epochs: int
) -> float:
    """Megapixels of the tiles that decide a training's time, of images of these shapes."""
    most = most_epochs * settings.largest_epoch(geometry.tile)
    return min(tile_count(shapes, geometry), most) * megapixels(geometry)


def tile_count(shapes: Iterable[Shape], geometry: Geometry) -> int:
    """Number of tiles of scaled images of these shapes (height, width)."""
    return sum(len(geometry.tiles(*shape)) for shape in shapes)


def megapixels(geometry: Geometry) -> float:
    """Megapixels of a tile."""
    return geometry.tile[0] * geometry.tile[1] / 1e6


def _file(settings: Settings, detector: str) -> Path:
    training = settings.training
    decisive = [
        settings.detectors.get(detector, {}),
        settings.teacher.name,
        *(training.profile, training.device, training.photographs is not None),
    ]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return settings.state_dir / "costs" / f"{detector}-{digest[:12]}.json"
