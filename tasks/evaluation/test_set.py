"""Read the test images of a category, and make synthetic anomalies if there are none."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillwatch.evaluation.evaluation import NORMAL, TestImages
from stillwatch.evaluation.pixel_metrics import evaluation_shape
from stillwatch.files import storage_errors
from stillwatch.images.layout import FEEDBACK
from stillwatch.images.manifest import ImageFacts
from stillwatch.images.masks import read_mask, resize_mask
from stillwatch.images.region import Region
from stillwatch.images.store import ImageStore, on_disk
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
    Anomalies whose whole defect is outside the region of interest are only named.

    Raises:
        ImageError: a mask or the region of interest cannot be read.
        StorageError: the store cannot be opened.
    """
    region = category.read_region()
    test = [row for row in category.manifest.rows if row.part == "test"]
    normals = [row for row in test if row.defect_type == NORMAL]
    if not normals:
        normals = [row for row in category.manifest.rows if row.part == "validation"]
    anomalies = [row for row in test if row.defect_type != NORMAL]
    outside = [row for row in anomalies if row.mask_area and row.mask_area_in_region == 0]
    anomalies = [row for row in anomalies if row not in outside]
    rows = normals + anomalies
    pixels = _stored(category, rows)
    shapes = [evaluation_shape(len(one), one.shape[1], settings.size) for one in pixels]
    masks = _masks(category.folder, rows, shapes, region) if anomalies else None
    real = TestImages(
        paths=tuple(row.path for row in rows),
        images=pixels,
        defect_types=tuple(row.defect_type for row in rows),
        masks=masks,
        groups={row.path: row.group for row in rows if row.group},
        counted=_counted(shapes, masks, region),
        outside_region=tuple(row.path for row in outside),
    )
    if anomalies or not normals:
        return real
    return _with_synthetic(real, settings, region, category.store)


def read_part(category: ExaminedCategory, part: str) -> list[NDArray[np.uint8]]:
    """The scaled images of one part, uint8 (h, w, 3) each."""
    return _stored(category, [row for row in category.manifest.rows if row.part == part])


def read_corrected_anomalies(category: ExaminedCategory) -> TestImages | None:
    """Read the corrected anomalies from the store, without masks; None if there are none.

    They were chosen by their scores, so they are not test images.
    """
    rows = [row for row in category.manifest.rows if row.part == FEEDBACK]
    if not rows:
        return None
    return TestImages(
        paths=tuple(row.path for row in rows),
        images=_stored(category, rows),
        defect_types=tuple(row.defect_type for row in rows),
        masks=None,
    )


def image_file(
    category: ExaminedCategory, test: TestImages, number: int, made: Path
) -> Path | None:
    """The file of a test image, which a bundle scales to that image.

    A synthetic image is written to the folder ``made``; None as ``scaled_file``.
    """
    path = test.paths[number]
    if not path.startswith(f"{SYNTHETIC}/"):
        return category.folder / path
    return scaled_file(category, test, number, made)


def scaled_file(
    category: ExaminedCategory, test: TestImages, number: int, made: Path
) -> Path | None:
    """Write the scaled pixels of a test image to the folder ``made`` as PNG.

    None where a bundle would scale them once more, or where the region of interest is for images of
    another size.
    """
    pixels = test.images[number]
    shape, region = pixels.shape[:2], category.manifest.region
    if category.geometry is None or category.geometry.scaled_shape(*shape) != shape:
        return None
    if region is not None and (region.height, region.width) != shape:
        return None
    file = made / f"{number:06d}.png"
    Image.fromarray(pixels).save(file)
    return file


def _stored(category: ExaminedCategory, rows: Sequence[ImageFacts]) -> list[NDArray[np.uint8]]:
    return ImageStore.open(category.store).part([row.path for row in rows])


def _masks(
    folder: Path,
    rows: Sequence[ImageFacts],
    shapes: Sequence[tuple[int, int]],
    region: Region | None,
) -> list[NDArray[np.bool_]] | None:
    """The defects of the images, as far as they are in the region."""
    masks = []
    for row, shape in zip(rows, shapes, strict=True):
        if row.mask is not None:
            # The examination has already refused masks that are too large.
            found = read_mask(folder / row.mask, image=folder / row.path, max_megapixels=math.inf)
            masks.append(resize_mask(_inside(found, region, row.mask), *shape))
        elif row.defect_type == NORMAL:
            masks.append(np.zeros(shape, np.bool_))
        else:
            return None
    return masks


def _inside(mask: NDArray[np.bool_], region: Region | None, name: str) -> NDArray[np.bool_]:
    if region is None:
        return mask
    region.require_size(*mask.shape, name=name)
    return mask & region.counted


def _counted(
    shapes: Sequence[tuple[int, int]],
    masks: Sequence[NDArray[np.bool_]] | None,
    region: Region | None,
) -> list[NDArray[np.bool_]] | None:
    """Pixels within the region; a defect's pixels that resizing moved out of it count, too."""
    if region is None:
        return None
    resized = cache(region.resized)
    if masks is None:
        return [resized(*shape) for shape in shapes]
    return [resized(*shape) | mask for shape, mask in zip(shapes, masks, strict=True)]


def _with_synthetic(
    normals: TestImages, settings: EvaluationSettings, region: Region | None, store: Path
) -> TestImages:
    shapes = [evaluation_shape(len(one), one.shape[1], settings.size) for one in normals.images]
    masks = [np.zeros(shape, np.bool_) for shape in shapes]
    paths, kinds, images = list(normals.paths), list(normals.defect_types), list(normals.images)
    made_from = {}
    made = make_synthetic_anomalies(normals.images, settings.synthetic_anomalies, _SEED)
    # Together, large images would not fit into memory.
    with storage_errors(store), tempfile.TemporaryFile(dir=store) as file:
        for number, one in enumerate(made):
            inside = one.mask if region is None else one.mask & region.resized(*one.mask.shape)
            if not inside.any():
                continue
            path = f"{SYNTHETIC}/{one.kind}/{number:03d}"
            made_from[path] = normals.paths[one.source]
            paths.append(path)
            kinds.append(f"{SYNTHETIC}_{one.kind}")
            images.append(on_disk(one.image, file))
            shapes.append(shapes[one.source])
            masks.append(resize_mask(inside, *shapes[one.source]))
    return replace(
        normals,
        paths=tuple(paths),
        images=images,
        defect_types=tuple(kinds),
        masks=masks,
        synthetic=True,
        made_from=made_from,
        counted=_counted(shapes, masks, region),
    )
