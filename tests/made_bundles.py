"""Bundles without a training, and a scorer whose maps are plain to see."""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillwatch.bundle import (
    REGION_FILE,
    Bundle,
    BundleInfo,
    DetectorInfo,
    NormalScores,
    TeacherInfo,
    TrainingInfo,
    write_bundle,
)
from stillwatch.calibration import calibrate
from stillwatch.combination import Combination, Level
from stillwatch.evaluation.evaluation import TestImages
from stillwatch.geometry import Geometry, Shape, fitted, tiled
from stillwatch.images.region import Region

SIZE = 16
"""Side of the images of ``make_bundle``, smaller than their tile of 32 pixels."""
ALONE = Combination(levels=(Level(),))
"""One level, which is the anomaly map."""
TILED = tiled([(80, 144)], 1.0, 64, 32)
"""Tiles of 64 pixels, each of which shares 32 with its neighbours."""


def brightness(tiles: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """The anomaly map is the red channel: image score = its brightest pixel, 0 to 255."""
    return [tiles[..., 0].astype(np.float32)]


def make_info(calibration_scores: NDArray[np.float32], **changes: object) -> BundleInfo:
    values: dict[str, object] = {
        "category": "plate",
        "detector": DetectorInfo(name="brightness", version=1, settings={"sigma": 4.0}),
        "teacher": TeacherInfo(name="none", digest="0" * 64),
        "geometry": fitted([(SIZE, SIZE)], SIZE),
        "combination": ALONE,
        "white_level": 255,
        "calibration": calibrate(calibration_scores, alpha_reject=0.05, alpha_review=0.15),
        "largest_image": SIZE * SIZE,
        "normal_scores": NormalScores(train=(1.0, 2.0), validation=(3.0,)),
        "fingerprint": "f" * 64,
        "provenance": {"data_version": "abc.dir"},
        "training": TrainingInfo(
            seed=0, seconds=1.5, device="cpu", resumed=False, kept_epochs={"fit": 3}, losses=()
        ),
    }
    return BundleInfo.model_validate(values | changes)


def make_bundle(folder: Path, region: Path | None = None, **changes: object) -> Bundle:
    """Calibrated on scores 81 … 100: rejects above 100, reviews above 98."""
    info = make_info(np.arange(81, 101, dtype=np.float32), **changes)
    return write_bundle(folder, info, {"weight": np.ones((2, 3), np.float32)}, region)


def image_of(score: int, at: tuple[int, int] = (3, 5)) -> NDArray[np.uint8]:
    """A dark image whose brightness score is ``score``."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[at] = score
    return image


def make_detector_bundle(folder: Path) -> Bundle:
    """PatchCore with a memory of random patches, calibrated on images like ``noise``.

    Its teacher is the real one, whose export takes four times as long as that of
    ``make_small_bundle``.
    """
    return write_bundle(folder, *_untrained("patchcore", fitted([(64, 64)], 64), (64, 64)))


def make_small_bundle(folder: Path) -> Bundle:
    """An untrained autoencoder, which has no teacher, calibrated on images like ``noise``."""
    return write_bundle(folder, *_untrained("autoencoder", fitted([(64, 64)], 64), (64, 64)))


def make_tiled_bundle(folder: Path, region: Region) -> Bundle:
    """``make_small_bundle`` in tiles, with images of the region's shape and within the region."""
    drawn = folder.parent / REGION_FILE
    region.save(drawn)
    height, width = region.counted.shape
    return write_bundle(folder, *_untrained("autoencoder", TILED, (height, width), region), drawn)


@cache
def _untrained(
    method: str, geometry: Geometry, shape: Shape, region: Region | None = None
) -> tuple[BundleInfo, dict[str, NDArray[np.generic]]]:
    import torch  # what else is here does not need it

    from stillwatch.detectors import build_detector, detector_class
    from stillwatch.detectors.patchcore import PatchCore
    from stillwatch.inference.mapper import ImageMapper
    from stillwatch.inference.torch_scorer import TorchScorer
    from stillwatch.settings import TeacherSettings
    from stillwatch.teachers.networks import load_teacher

    wanted = TeacherSettings()
    teacher = load_teacher(wanted, detector_class(method).teacher_strides(wanted.name, {}))
    settings = {"distance": "l2"} if method == "autoencoder" else {}
    detector = build_detector(method, teacher, settings)
    if isinstance(detector, PatchCore):
        generator = torch.Generator().manual_seed(0)
        patches = 50, detector.memory.patches.shape[1]
        detector.memory.patches = torch.rand(patches, generator=generator)
    combination = Combination(levels=(Level(),), sigma=geometry.sigma)
    scorer = TorchScorer(detector, torch.device("cpu"))
    mapper = ImageMapper(scorer, geometry, combination, region=region)
    info = make_info(
        mapper.scores(noise(20, shape)),
        detector=DetectorInfo(name=method, version=detector.version, settings=settings),
        teacher=TeacherInfo(name=teacher.name, digest=teacher.digest),
        geometry=geometry,
        combination=combination,
        largest_image=shape[0] * shape[1],
    )
    tensors = {name: value.contiguous() for name, value in detector.state_dict().items()}
    return info, {name: value.numpy() for name, value in tensors.items()}


def noise(count: int, shape: Shape = (64, 64), seed: int = 0) -> NDArray[np.uint8]:
    """Images of noise, each darker or brighter: uint8 (count, height, width, 3)."""
    random = np.random.default_rng(seed)
    most = random.integers(20, 256, (count, 1, 1, 1))
    return random.integers(0, most, (count, *shape, 3)).astype(np.uint8)


def half_white() -> TestImages:
    """Four normals like ``noise`` and four anomalies whose upper half is white."""
    images = noise(8, seed=2)
    images[4:, :32] = 255
    masks = np.zeros((8, 64, 64), dtype=np.bool_)
    masks[4:, :32] = True
    kinds = ("good",) * 4 + ("white",) * 4
    return TestImages(tuple(f"{n}.png" for n in range(8)), images, kinds, masks)
