"""Train, calibrate and evaluate a detector on a category's folder, without a server."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.revision import commit, machine
from stillwatch.bundle import Bundle, read_bundle
from stillwatch.detectors import detector_settings
from stillwatch.evaluation.evaluation import NORMAL, Evaluation, TestImages, evaluate
from stillwatch.evaluation.pixel_metrics import evaluation_shape
from stillwatch.files import bytes_md5
from stillwatch.images.decode import Pixels, read_image, read_shape
from stillwatch.images.layout import Category, ImageFile, scan_category
from stillwatch.images.masks import read_mask, resize_mask
from stillwatch.images.split import PARTS, assign, group_of, part_of
from stillwatch.images.store import ImageStore, store_writer
from stillwatch.inference.inspector import Inspector
from stillwatch.inference.scorers import open_scorer
from stillwatch.machine.devices import choose_device
from stillwatch.settings import Settings
from stillwatch.training.child import run
from stillwatch.training.job import TrainingJob

WHITE = 255
"""Level of white; the categories that are measured have 8 bits."""
STORE = "store"
"""Name of the folder of decoded images in the folder that ``trained_bundle`` is given."""


def measure(folder: Path, settings: Settings, detector: str, seed: int) -> dict[str, Any]:
    """The figures of one detector on one category.

    Args:
        folder: of the category.
        settings: of images, split, calibration, teacher, training, evaluation and the detector.
        detector: its name.
        seed: of the training.
    """
    category = scan_category(folder)
    began, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as made:
        bundle = trained_bundle(folder, settings, detector, seed, Path(made))
        trained, cpu_trained = time.perf_counter(), time.process_time()
        inspector = Inspector(bundle, open_scorer(bundle, settings.training.device))
        test = _test_images(category, settings, ImageStore.open(Path(made) / STORE))
        found = evaluate(inspector, test, settings=settings.evaluation)
    scores = bundle.info.calibration.scores
    return {
        "category": category.name,
        "detector": detector,
        "seed": seed,
        "commit": commit(),
        "machine": machine(choose_device(settings.training.device)),
        "geometry": str(bundle.info.geometry),
        "calibration": len(scores),
        "rank": bundle.info.calibration.reject.rank,
        "test_normals": len(category.test_normals),
        "anomalies": len(category.test_anomalies),
        **_figures(found, scores),
        "train_seconds": bundle.info.training.seconds,
        "seconds": trained - began,
        "cpu_seconds": cpu_trained - cpu,
        "ms_per_image": found.ms_per_image,
    }


def scale_of(text: str) -> float | str:
    """``images.scale`` as it is written on the command line."""
    return text if text == "fit" else float(text)


def laptop_settings(weights: Path, group: str | None = None, scale: str = "fit") -> Settings:
    """The defaults with the profile ``laptop``, whatever the machine.

    Args:
        weights: folder of the teachers' weights.
        group: ``split.group_pattern``.
        scale: as for ``scale_of``.
    """
    return Settings.model_validate(
        {
            "images": {"scale": scale_of(scale)},
            "split": {"group_pattern": group},
            "teacher": {"weights_dir": weights},
            "training": {"profile": "laptop"},
        }
    )


def trained_bundle(
    folder: Path, settings: Settings, detector: str, seed: int, made: Path
) -> Bundle:
    """Decode, train and calibrate; the other arguments as of ``measure``.

    Args:
        made: folder that the store of decoded images and the bundle are written to.
    """
    category = scan_category(folder)
    _store(category, settings, made / STORE)
    job = _job(category, settings, detector, seed, split_of(category, settings), made)
    run(job, lambda _name, _fields: None)
    return read_bundle(job.bundle)


def split_of(category: Category, settings: Settings) -> dict[str, str]:
    """Path of each train normal -> part, as a first version of the images is split."""
    md5s = {
        image.path: bytes_md5((category.folder / image.path).read_bytes())
        for image in category.train_normals
    }
    alpha = min(settings.calibration.alpha_reject, settings.calibration.alpha_review)
    return part_of(md5s, assign({}, md5s, settings=settings.split, smallest_alpha=alpha))


def _store(category: Category, settings: Settings, folder: Path) -> None:
    shapes = {image.path: read_shape(category.folder / image.path) for image in category.images}
    geometry = settings.images.geometry([shapes[image.path] for image in category.train_normals])
    with store_writer(folder, shapes, geometry) as store:
        for image in category.images:
            path = category.folder / image.path
            store.add(image.path, read_image(path, geometry, white_level=WHITE))


def _job(
    category: Category,
    settings: Settings,
    detector: str,
    seed: int,
    parts: Mapping[str, str],
    folder: Path,
) -> TrainingJob:
    pattern = settings.split.group_pattern
    return TrainingJob(
        category=category.name,
        detector=detector,
        detector_settings=detector_settings(detector, settings).model_dump(mode="json"),
        teacher=settings.teacher,
        training=settings.training.model_copy(update={"seed": seed}),
        calibration=settings.calibration,
        white_level=WHITE,
        store=folder / STORE,
        parts={name: tuple(p for p, part in parts.items() if part == name) for name in PARTS},
        region=None,
        groups={path: str(group_of(path, pattern)) for path in parts} if pattern else {},
        checkpoint=folder / "checkpoint",
        shared=folder / "shared",
        bundle=folder / "bundle",
        fingerprint="",
        provenance={},
    )


def _test_images(category: Category, settings: Settings, store: ImageStore) -> TestImages:
    files = [*category.test_normals, *category.test_anomalies]
    images = store.part([file.path for file in files])
    annotated = all(file.mask is not None for file in category.test_anomalies)
    return TestImages(
        paths=tuple(file.path for file in files),
        images=images,
        defect_types=tuple(file.defect_type for file in files),
        masks=[
            _mask(category.folder, file, image, settings.evaluation.size)
            for file, image in zip(files, images, strict=True)
        ]
        if annotated
        else None,
    )


def _mask(folder: Path, file: ImageFile, image: Pixels, size: int) -> NDArray[np.bool_]:
    shape = evaluation_shape(image.shape[0], image.shape[1], size)
    if file.mask is None:
        return np.zeros(shape, np.bool_)
    return resize_mask(read_mask(folder / file.mask), *shape)


def _figures(found: Evaluation, calibration: Sequence[float]) -> dict[str, float | None]:
    names = ("image_auroc", "aupro", "pixel_auroc", "recall", "false_alarm_rate")
    anomalies = [row["score"] for row in found.rows if row["defect_type"] != NORMAL]
    labels = [0] * len(calibration) + [1] * len(anomalies)
    return {name: found.metrics.get(name) for name in names} | {
        "calibration_auroc": float(roc_auc_score(labels, [*calibration, *anomalies]))
    }
