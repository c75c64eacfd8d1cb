"""The built-in sample set: two categories in MVTec layout, drawn by a seeded generator.

``plate`` is an object, ``cloth`` a texture; each has 80 train normals, 20 test normals and 4 defect
types of 8 test images with exact masks, 256 x 256. Within a defect type the images go from obvious
(``000.png``) to hardly visible (``007.png``).

The same seed gives the same pixels on every machine; :mod:`stillwatch.sample.canvas` says
how. The bytes of the PNG files depend on the zlib that Pillow was built with as well.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillwatch.errors import LayoutError
from stillwatch.files import atomic_folder
from stillwatch.sample import cloth, plate
from stillwatch.sample.canvas import Draws, Field, Mask, Picture, expose_metal, widen

TRAIN_NORMALS = 80
TEST_NORMALS = 20
ANOMALIES_PER_TYPE = 8


@dataclass(frozen=True)
class _Subject:
    """What is drawn for one category."""

    number: int
    """Part of every image's random key."""
    lay_out: Callable[[Draws], tuple[Any, Field]]
    """Gives a part without a defect, and its scene."""
    expose: Callable[[Field, Field], NDArray[np.uint8]]
    """Turns a scene and noise into pixels."""
    defects: Mapping[str, Callable[[Any, Field, Draws, float], tuple[Field, Mask]]]
    """By type: gives the scene with the defect, and the pixels that it changes."""

    @property
    def defect_types(self) -> tuple[str, ...]:
        """The defect types, in the order of their numbers."""
        return tuple(self.defects)

    def draw(self, key: tuple[int, ...], defect: str | None, severity: float) -> Picture:
        """Draw one image.

        Args:
            key: names the random streams; the same key without a defect gives the same part.
            defect: one of ``defect_types``, or None for a normal.
            severity: 1 for obvious down to 0 for hardly visible.
        """
        draws = Draws(*key, 0)
        part, clean = self.lay_out(draws)
        noise = draws.grain()
        pixels = self.expose(clean, noise)
        mask = np.zeros(pixels.shape[:2], dtype=np.bool_)
        if defect is not None:
            changed, touched = self.defects[defect](part, clean, Draws(*key, 1), severity)
            mask = widen(touched)
            pixels[mask] = self.expose(changed, noise)[mask]
        return Picture(pixels, mask)


SUBJECTS = {
    "plate": _Subject(0, plate.lay_out, expose_metal, plate.DEFECTS),
    "cloth": _Subject(1, cloth.lay_out, cloth.expose, cloth.DEFECTS),
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
