"""Read the test images of a category, and make synthetic anomalies if there are none."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillwatch.evaluation.evaluation import NORMAL, TestImages
from stillwatch.images.decode import read_mask, resize_mask
from stillwatch.images.layout import FEEDBACK
from stillwatch.images.manifest import ImageFacts, Manifest
from stillwatch.images.store import ImageStore
from stillwatch.sample.synthetic import make_synthetic_anomalies
from stillwatch.settings import EvaluationSettings
from stillwatch.tasks.data.examine import ExaminedCategory

SYNTHETIC = "synthetic"
"""First part of the path of a synthetic image, which is not a file."""

_SEED = 0
"""All detectors and all training seeds get the same anomalies."""


def read_test_set(category: ExaminedCategory, settings: EvaluationSettings) -> TestImages:
    """Read the test images from the store, with their masks.

    The normals are those of ``test/good``, or the validation normals if there are none. Without
    anomalies, synthetic ones are made from these normals. Calibration normals are never used.

    Args:
        category: manifest, store, and folder of the masks.
        settings: evaluation size and number of synthetic anomalies.

    Raises:
        ImageError: a mask cannot be read.
        StorageError: the store cannot be opened.
    """
    images = ImageStore.open(category.store)
    normals = normals_of(category.manifest)
    test = [row for row in category.manifest.rows if row.part == "test"]
    anomalies = [row for row in test if row.defect_type != NORMAL]
    rows = normals + anomalies
    pixels = images.part([row.path for row in rows])
    real = TestImages(
        paths=tuple(row.path for row in rows),
        images=pixels,
        defect_types=tuple(row.defect_type for row in rows),
        masks=_masks(category.folder, rows, settings.size) if anomalies else None,
        groups={row.path: row.group for row in rows if row.group},
    )
    return real if anomalies or not normals else _with_synthetic(real, settings)


def read_part(category: ExaminedCategory, part: str) -> list[NDArray[np.uint8]]:
    """The scaled images of one part, uint8 (h, w, 3) each.

    Raises:
        StorageError: the store cannot be opened.
    """
    images = ImageStore.open(category.store)
    return images.part([row.path for row in category.manifest.rows if row.part == part])


def read_corrected_anomalies(category: ExaminedCategory) -> TestImages | None:
    """Read the corrected anomalies from the store, without masks; None if there are none.

    They were chosen by their scores, so they are not test images.

    Raises:
        StorageError: the store cannot be opened.
    """
    rows = [row for row in category.manifest.rows if row.part == FEEDBACK]
    if not rows:
        return None
    return TestImages(
        paths=tuple(row.path for row in rows),
        images=read_part(category, FEEDBACK),
        defect_types=tuple(row.defect_type for row in rows),
        masks=None,
    )


def normals_of(manifest: Manifest) -> list[ImageFacts]:
    """The normals of the test: ``test/good``, or the validation normals if there are none."""
    test = [row for row in manifest.rows if row.part == "test" and row.defect_type == NORMAL]
    return test or [row for row in manifest.rows if row.part == "validation"]


def image_file(
    category: ExaminedCategory, test: TestImages, number: int, made: Path
) -> Path | None:
    """The file of a test image, which a bundle scales to that image.

    A synthetic image is written to the folder ``made`` as PNG; None where it would be scaled once
    more.
    """
    path = test.paths[number]
    if not path.startswith(f"{SYNTHETIC}/"):
        return category.folder / path
    pixels = test.images[number]
    shape = pixels.shape[:2]
    if category.geometry is None or category.geometry.scaled_shape(*shape) != shape:
        return None
    file = made / f"{number:06d}.png"
    Image.fromarray(pixels).save(file)
    return file


def _masks(folder: Path, rows: list[ImageFacts], size: int) -> NDArray[np.bool_] | None:
    masks = np.zeros((len(rows), size, size), dtype=np.bool_)
    for mask, row in zip(masks, rows, strict=True):
        if row.mask is not None:
            # The examination has already refused masks that are too large.
            found = read_mask(folder / row.mask, max_megapixels=math.inf)
            mask[:] = resize_mask(found, size)
        elif row.defect_type != NORMAL:
            return None
    return masks


def _with_synthetic(normals: TestImages, settings: EvaluationSettings) -> TestImages:
    made = make_synthetic_anomalies(normals.images, settings.synthetic_anomalies, _SEED)
    masks = np.zeros((len(normals.paths) + len(made.kinds), settings.size, settings.size), np.bool_)
    for mask, source in zip(masks[len(normals.paths) :], made.masks, strict=True):
        mask[:] = resize_mask(source, settings.size)
    paths = tuple(f"{SYNTHETIC}/{kind}/{number:03d}" for number, kind in enumerate(made.kinds))
    sources = (normals.paths[source] for source in made.sources)
    return TestImages(
        paths=normals.paths + paths,
        images=[*normals.images, *made.images],
        defect_types=normals.defect_types + tuple(f"{SYNTHETIC}_{kind}" for kind in made.kinds),
        masks=masks,
        synthetic=True,
        made_from=dict(zip(paths, sources, strict=True)),
        groups=normals.groups,
    )
