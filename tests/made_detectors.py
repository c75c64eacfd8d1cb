"""A small examined category, and detectors of it in MLflow without the time of a training."""

import hashlib
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from stillwatch.bundle import (
    REGION_FILE,
    BundleInfo,
    DetectorInfo,
    NormalScores,
    TeacherInfo,
    TrainingInfo,
    write_bundle,
)
from stillwatch.calibration import calibrate
from stillwatch.detectors import build_detector
from stillwatch.images.layout import scan_category
from stillwatch.images.split import assign
from stillwatch.images.store import ImageStore
from stillwatch.inference.mapper import ImageMapper
from stillwatch.inference.stitching import level_maps
from stillwatch.inference.torch_scorer import TorchScorer
from stillwatch.settings import EvaluationSettings, FloorSettings, ImageSettings, Settings
from stillwatch.tasks.data.dvc_repository import DvcRemote
from stillwatch.tasks.data.examine import ExaminedCategory, examine_category
from stillwatch.tasks.data.version import DataVersion, category_version
from stillwatch.teachers.networks import load_teacher

# On images this small more threads only wait for one another; child processes inherit the variable.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

SIDE = 64
DIR_HASH = "0123456789abcdef0123456789abcdef.dir"


def small(settings: Settings) -> Settings:
    """Images of 64 pixels, one epoch, and no floor that such a training could miss."""
    return settings.model_copy(
        update={
            "images": ImageSettings(size=SIDE),
            "evaluation": EvaluationSettings(
                size=SIDE, bootstrap_resamples=100, synthetic_anomalies=6
            ),
            "detectors": {
                "stfpm": {"epochs": 2, "batch_size": 8, "fusion": "published"},
                "reverse_distillation": {"epochs": 1, "batch_size": 8},
            },
            "retrain": settings.retrain.model_copy(
                update={"floors": FloorSettings(image_auroc=0.0, aupro=0.0, recall=0.0)}
            ),
        }
    )


def photograph(seed: int, *, scratched: bool = False) -> NDArray[np.uint8]:
    """A surface with soft blobs, and with a hard bright bar if it is scratched."""
    random = np.random.default_rng(seed)
    blobs = Image.fromarray(random.integers(90, 160, (8, 8, 3), dtype=np.uint8))
    pixels = np.asarray(blobs.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).copy()
    if scratched:
        pixels[20:30, 12:52] = (255, 255, 0)
    return pixels


def make_images(folder: Path, *, anomalies: int = 4, test_normals: int = 6) -> None:
    """Write a category of 40 train normals, with four corrected images beside it."""
    _save(folder / "feedback/good/000.png", photograph(3000))
    for number in range(3):
        scratched = photograph(4000 + number, scratched=True)
        _save(folder / f"feedback/scratch/{number:03}.png", scratched)
    for number in range(40):
        _save(folder / f"train/good/{number:03}.png", photograph(number))
    for number in range(test_normals):
        _save(folder / f"test/good/{number:03}.png", photograph(1000 + number))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20:30, 12:52] = 255
    for number in range(anomalies):
        _save(folder / f"test/scratch/{number:03}.png", photograph(2000 + number, scratched=True))
        _save(folder / f"ground_truth/scratch/{number:03}_mask.png", mask)


def examined(folder: Path, settings: Settings) -> tuple[ExaminedCategory, DataVersion]:
    """Read a category as the flow does, without a repository around it."""
    files = {
        path.relative_to(folder).as_posix(): hashlib.md5(path.read_bytes()).hexdigest()  # noqa: S324
        for path in sorted(folder.rglob("*.png"))
    }
    normals = {image.path: files[image.path] for image in scan_category(folder).train_normals}
    assignment = assign({}, normals, settings=settings.split, smallest_alpha=0.05)
    version = category_version(folder.name, files, normals, assignment)
    data = DataVersion(
        dir_hash=DIR_HASH,
        commit="c" * 40,
        tag="data-1",
        root=folder.parent,
        categories={folder.name: version},
        message="data: plate +40",
        changed=True,
        host=socket.gethostname(),
        remote=DvcRemote("unused", {}),
    )
    return examine_category(version, root=folder.parent, settings=settings), data


def write_untrained_bundle(
    folder: Path,
    category: ExaminedCategory,
    fingerprint: str,
    settings: Settings,
    method: str = "stfpm",
) -> None:
    """Everything that a training leaves, but for the training.

    Without it ``stfpm`` does not see scratches (image AUROC 0.4); ``patchcore`` does (1.0).
    """
    asked = {
        "method": method,
        "settings": settings.model_dump_json(
            include={"images", "calibration", "teacher", "detectors"}
        ),
        "category": category.version.name,
        "images": category.version.digest,
        "rows": [(row.path, row.part) for row in category.manifest.rows],
        "region": category.manifest.region and category.manifest.region.digest,
    }
    key = json.dumps(asked)
    if key not in _untrained:
        _untrained[key] = _make_untrained(category, settings, method)
    info, tensors = _untrained[key]
    region = category.read_region()
    drawn = None if region is None else folder.parent / REGION_FILE
    if region is not None and drawn is not None:
        region.save(drawn)
    write_bundle(folder, info.model_copy(update={"fingerprint": fingerprint}), tensors, drawn)


_untrained: dict[str, tuple[BundleInfo, dict[str, NDArray[np.generic]]]] = {}
"""What was made in this process, by what it was made from."""


def _make_untrained(
    category: ExaminedCategory, settings: Settings, method: str
) -> tuple[BundleInfo, dict[str, NDArray[np.generic]]]:
    values = settings.detectors.get(method, {})
    teacher = load_teacher(settings.teacher)
    detector = build_detector(method, teacher, values)
    scorer = TorchScorer(detector, next(detector.parameters()).device)
    store = ImageStore.open(category.store)

    def images(part: str) -> list[NDArray[np.uint8]]:
        return store.part([row.path for row in category.manifest.rows if row.part == part])

    levels = list(level_maps(scorer, store.geometry, images("validation"), batch_size=16))
    combination = detector.combination(levels, store.geometry.sigma)
    mapper = ImageMapper(scorer, store.geometry, combination, region=category.read_region())
    info = BundleInfo(
        category=category.version.name,
        detector=DetectorInfo(
            name=method, version=detector.version, settings=detector.settings.model_dump()
        ),
        teacher=TeacherInfo(name=teacher.name, digest=teacher.digest),
        geometry=store.geometry,
        combination=combination,
        white_level=category.manifest.white_level,
        calibration=calibrate(
            mapper.scores(images("calibration")),
            alpha_reject=settings.calibration.alpha_reject,
            alpha_review=settings.calibration.alpha_review,
        ),
        largest_image=max(one.shape[0] * one.shape[1] for one in images("calibration")),
        normal_scores=NormalScores(
            train=tuple(mapper.scores(images("train")).tolist()),
            validation=tuple(mapper.scores(images("validation")).tolist()),
        ),
        fingerprint="",
        provenance={},
        training=TrainingInfo(
            seed=0, seconds=0.0, device="cpu", resumed=False, kept_epochs={}, losses=()
        ),
    )
    return info, {name: value.numpy() for name, value in detector.state_dict().items()}


def without_test_rows(category: ExaminedCategory, *defect_types: str) -> ExaminedCategory:
    """The category as if it had no test images of these kinds."""
    rows = tuple(
        row
        for row in category.manifest.rows
        if row.part != "test" or row.defect_type not in defect_types
    )
    return replace(category, manifest=replace(category.manifest, rows=rows))


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
