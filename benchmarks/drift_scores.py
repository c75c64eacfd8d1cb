"""Scores of fresh images of the sample generator: as they are, darkened, blurred, defective."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.revision import commit, machine
from stillwatch.detectors import build_detector, detector_class, parse_detector_settings
from stillwatch.geometry import fitted
from stillwatch.images.decode import resize_image
from stillwatch.inference.mapper import ImageMapper
from stillwatch.inference.torch_scorer import TorchScorer
from stillwatch.machine.devices import choose_device
from stillwatch.sample.image_set import ANOMALIES_PER_TYPE, SUBJECTS, draw_image
from stillwatch.settings import TeacherSettings, TrainingSettings
from stillwatch.teachers.networks import load_teacher
from stillwatch.training.loop import train

Pixels = NDArray[np.uint8]

CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "10 % darker": lambda image: image.point([round(0.9 * level) for level in range(256)] * 3),
    "30 % darker": lambda image: image.point([round(0.7 * level) for level in range(256)] * 3),
    "blurred, 2 pixels": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "blurred, 4 pixels": lambda image: image.filter(ImageFilter.GaussianBlur(4)),
}
"""What happens to the line, at 256 x 256; the blur's figure is its standard deviation."""
TRAIN, VALIDATION, DEFECTIVE = 80, 20, 256


def score_streams(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train a detector and score every image once.

    Args:
        settings: ``category`` of the sample set, ``detector``, ``side`` at which images are
            scored, ``unchanged`` and ``changed``: how many images.

    Returns:
        ``unchanged``, ``changed`` (by the name of the change; the same images every time) and
        ``defective``: lists of scores.
    """
    fresh = _fresh_images(settings["category"])
    see = partial(_seen, side=settings["side"])
    normals = [see(image) for image in islice(fresh, TRAIN + VALIDATION)]
    mapper = _trained(settings["detector"], normals[:TRAIN], normals[TRAIN:])
    unchanged = map(see, islice(fresh, settings["unchanged"]))
    to_change = list(islice(fresh, settings["changed"]))
    changed = {name: map(see, map(change, to_change)) for name, change in CHANGES.items()}
    return {
        "unchanged": _scores(mapper, unchanged),
        "changed": {name: _scores(mapper, images) for name, images in changed.items()},
        "defective": _scores(mapper, map(see, _defective_images(settings["category"]))),
        "machine": machine(choose_device("auto")),
        "commit": commit(),
    }


def _scores(mapper: ImageMapper, images: Iterator[Pixels]) -> list[float]:
    return [float(anomaly_map.max()) for anomaly_map in mapper.maps(images)]


def _fresh_images(category: str) -> Iterator[Image.Image]:
    for number in count():
        yield _as_rgb(draw_image(category, "train", "good", number).pixels)


def _defective_images(category: str) -> Iterator[Image.Image]:
    types = SUBJECTS[category].defect_types
    for number in range(DEFECTIVE):
        index = number // len(types) % ANOMALIES_PER_TYPE
        seed = number // (len(types) * ANOMALIES_PER_TYPE)
        picture = draw_image(category, "test", types[number % len(types)], index, seed=seed)
        yield _as_rgb(picture.pixels)


def _as_rgb(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels).convert("RGB")


def _seen(image: Image.Image, side: int) -> Pixels:
    return resize_image(np.asarray(image), side, side)


def _trained(name: str, train_images: list[Pixels], validation_images: list[Pixels]) -> ImageMapper:
    teacher = TeacherSettings()
    settings = parse_detector_settings(name, {}).model_dump()
    strides = detector_class(name).teacher_strides(teacher.name, settings)
    detector = build_detector(name, load_teacher(teacher, strides), {})
    device = choose_device("auto")
    geometry = fitted([train_images[0].shape[:2]], max(train_images[0].shape))
    summary = train(
        detector,
        train_images=train_images,
        validation_images=validation_images,
        geometry=geometry,
        settings=TrainingSettings(),
        device=device,
        checkpoint=None,
        on_epoch=lambda _: None,
    )
    return ImageMapper(TorchScorer(detector, device), geometry, summary.combination)
