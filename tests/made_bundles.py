"""Bundles without a training, and a scorer whose maps are plain to see."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillwatch.bundle import (
    Bundle,
    BundleInfo,
    DetectorInfo,
    NormalScores,
    TeacherInfo,
    TrainingInfo,
    write_bundle,
)
from stillwatch.calibration import calibrate

SIZE = 16


def brightness(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The anomaly map is the red channel: image score = its brightest pixel, 0 to 255."""
    return images[..., 0].astype(np.float32)


def make_info(calibration_scores: NDArray[np.float32], **changes: object) -> BundleInfo:
    values: dict[str, object] = {
        "category": "plate",
        "detector": DetectorInfo(name="brightness", version=1, settings={"sigma": 4.0}),
        "teacher": TeacherInfo(name="none", digest="0" * 64),
        "image_size": SIZE,
        "white_level": 255,
        "calibration": calibrate(calibration_scores, alpha_reject=0.05, alpha_review=0.15),
        "normal_scores": NormalScores(train=(1.0, 2.0), validation=(3.0,)),
        "fingerprint": "f" * 64,
        "provenance": {"data_version": "abc.dir"},
        "training": TrainingInfo(
            seed=0, seconds=1.5, device="cpu", resumed=False, kept_epochs={"fit": 3}, losses=()
        ),
    }
    return BundleInfo.model_validate(values | changes)


def make_bundle(folder: Path, **changes: object) -> Bundle:
    """Calibrated on scores 81 … 100: rejects above 100, reviews above 98."""
    info = make_info(np.arange(81, 101, dtype=np.float32), **changes)
    return write_bundle(folder, info, {"weight": np.ones((2, 3), np.float32)})


def image_of(score: int, at: tuple[int, int] = (3, 5)) -> NDArray[np.uint8]:
    """A dark image whose brightness score is ``score``."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[at] = score
    return image
