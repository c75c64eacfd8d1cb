"""The built-in sample set: two categories in MVTec layout, drawn by a seeded generator.

``plate`` is an object, ``cloth`` a texture; each has 80 train normals, 20 test normals and 4 defect
types of 8 test images with exact masks, 256 x 256. Within a defect type the images go from obvious
(``000.png``) to hardly visible (``007.png``).

The same seed gives the same pixels on every machine; :mod:`stillwatch.sample.canvas` says
how. The bytes of the PNG files depend on the zlib that Pillow was built with as well.
"""

import zlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillwatch.errors import LayoutError
from stillwatch.files import atomic_folder
from stillwatch.sample.canvas import Picture
from stillwatch.sample.cloth import CLOTH_DEFECTS, draw_cloth
from stillwatch.sample.plate import PLATE_DEFECTS, draw_plate

TRAIN_NORMALS = 80
TEST_NORMALS = 20
ANOMALIES_PER_TYPE = 8


@dataclass(frozen=True)
class _Subject:
    """What is drawn for one category; ``number`` is part of every image's random key."""

    number: int
    draw: Callable[[tuple[int, ...], str | None, float], Picture]
    defect_types: tuple[str, ...]


SUBJECTS = {
    "plate": _Subject(0, draw_plate, tuple(PLATE_DEFECTS)),
    "cloth": _Subject(1, draw_cloth, tuple(CLOTH_DEFECTS)),
}


def make_sample_set(root: Path, *, seed: int = 0) -> None:
    """Write ``root/plate`` and ``root/cloth``, both or neither.

    Args:
        root: the image set's folder; made if it does not exist.
        seed: 0 or larger.

    Raises:
        LayoutError: one of the two category folders exists already.
    """
    folders = {name: root / name for name in SUBJECTS}
    for folder in folders.values():
        require_new(folder)
    with ExitStack() as stack:
        for name, folder in folders.items():
            _write_category(stack.enter_context(atomic_folder(folder)), name, seed)


def require_new(folder: Path) -> None:
    """Refuse a folder for generated images that exists already.

    Raises:
        LayoutError: it does.
    """
    if folder.exists():
        raise LayoutError(
            f"{folder}: exists already, and generated images never overwrite anything. "
            "Choose another folder, or remove this one first."
        )


def draw_image(
    category: str, split: str, defect_type: str, index: int, *, seed: int = 0
) -> Picture:
    """Draw one image of the sample set; none depends on any other.

    Args:
        category: "plate" or "cloth".
        split: "train" or "test".
        defect_type: "good" or one of the category's defect types.
        index: the number in the file's name.
        seed: 0 or larger.
    """
    key = image_key(category, split, defect_type, index, seed=seed)
    if defect_type == "good":
        return SUBJECTS[category].draw(key, None, 0.0)
    severity = 1.0 - index / (ANOMALIES_PER_TYPE - 1)
    return SUBJECTS[category].draw(key, defect_type, severity)


def image_key(
    category: str, split: str, defect_type: str, index: int, *, seed: int = 0
) -> tuple[int, ...]:
    """Return what names an image's random streams; arguments as for :func:`draw_image`."""
    subject = SUBJECTS[category]
    kind = ("good", *subject.defect_types).index(defect_type)
    return seed, subject.number, ("train", "test").index(split), kind, index


def _write_category(folder: Path, category: str, seed: int) -> None:
    for split, defect_type, index in _contents(category):
        picture = draw_image(category, split, defect_type, index, seed=seed)
        write_png(folder / split / defect_type / f"{index:03}.png", picture.pixels)
        if defect_type != "good":
            mask = picture.mask.astype(np.uint8) * 255
            write_png(folder / "ground_truth" / defect_type / f"{index:03}_mask.png", mask)


def _contents(category: str) -> Iterable[tuple[str, str, int]]:
    for index in range(TRAIN_NORMALS):
        yield "train", "good", index
    for index in range(TEST_NORMALS):
        yield "test", "good", index
    for defect_type in SUBJECTS[category].defect_types:
        for index in range(ANOMALIES_PER_TYPE):
            yield "test", defect_type, index


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write a picture, uint8 (H, W) or (H, W, 3); its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Run-length matching suits noisy pictures: smaller than the default, in a fifth of the time.
    Image.fromarray(pixels).save(path, "PNG", compress_level=6, compress_type=zlib.Z_RLE)
