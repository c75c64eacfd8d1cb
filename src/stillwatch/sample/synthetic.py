"""Synthetic anomalies with known masks, for categories that have no defect images at all.

Half are CutPaste (Li, Sohn, Yoon & Pfister, "CutPaste: Self-Supervised Learning for Anomaly
Detection and Localization", CVPR 2021, section 2.1): a patch or a thin, turned scar of an image,
slightly jittered in colour, is pasted elsewhere on it. Half blend a strongly changed normal in
where Perlin noise is high (Zavrtanik, Kristan & Skočaj, "DRAEM", ICCV 2021, section 3.3, where
the blended texture is from another data set). Figures from them say little about real defects.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from stillwatch.errors import LayoutError

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
_Maker = Callable[[Sequence[Pixels], int, np.random.Generator], tuple[Pixels, Mask]]

VISIBLE_LEVELS = 8
VISIBLE_SHARE = 0.5
_TRIES = 50
_WINDOW = 1024
"""Pixels. In a larger image an anomaly lies in a random part with sides of at most this length: an
anomaly that grew with the image would need gigabytes to make, and be unlike a real defect."""
_CUTPASTE_SIDE = 256
"""Side of the images for which the CutPaste paper gives its scars' lengths."""
_RECOLOURINGS: tuple[Callable[[Image.Image], Image.Image], ...] = (
    ImageOps.invert,
    ImageOps.solarize,
    ImageOps.equalize,
    lambda image: ImageOps.posterize(image, 2),
    lambda image: image.point([min(255, level + level // 2) for level in range(256)] * 3),
    lambda image: image.point([level // 2 for level in range(256)] * 3),
)


@dataclass(frozen=True)
class SyntheticAnomaly:
    """An anomaly made from a normal: equal to the normal outside the mask."""

    image: Pixels
    """uint8 (h, w, 3), of the shape of the normal."""
    mask: Mask
    """bool (h, w); never empty."""
    kind: str
    """``cutpaste`` or ``perlin``."""
    source: int
    """Index of the normal."""


def make_synthetic_anomalies(
    normals: Sequence[Pixels], count: int, seed: int
) -> Iterator[SyntheticAnomaly]:
    """Make anomalies from normals alone, one at a time, every normal used equally often.

    The kinds alternate. In at least ``VISIBLE_SHARE`` of its mask's pixels an anomaly differs from
    its normal by ``VISIBLE_LEVELS`` or more in some channel. The first anomalies do not depend on
    ``count``.

    Args:
        normals: uint8 (h, w, 3) each, at least one; test or validation normals, never calibration.
        count: how many anomalies.
        seed: the same seed makes the same anomalies.

    Raises:
        LayoutError: there are no normals.
    """
    if len(normals) == 0:
        raise LayoutError(
            "there are no normals to make synthetic anomalies from; add images of good parts to "
            "test/good or train/good."
        )
    makers: tuple[tuple[str, _Maker], ...] = (("cutpaste", _cutpaste), ("perlin", _perlin_blend))
    order = np.random.default_rng(seed).permutation(len(normals))
    for index in range(count):
        kind, make = makers[index % 2]
        source, generator = int(order[index % len(normals)]), np.random.default_rng([seed, index])
        windows = [_window(one.shape[:2], generator) for one in normals]
        parts = [one[window] for one, window in zip(normals, windows, strict=True)]
        image = np.array(normals[source])
        mask = np.zeros(image.shape[:2], np.bool_)
        image[windows[source]], mask[windows[source]] = _visible(make, parts, source, generator)
        yield SyntheticAnomaly(image, mask, kind, source)


def _window(shape: Sequence[int], generator: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a random part of an image; all of it where it is small."""
    rows, columns = (
        int(generator.integers(side - _WINDOW + 1)) if side > _WINDOW else 0 for side in shape
    )
    return slice(rows, rows + _WINDOW), slice(columns, columns + _WINDOW)


def _visible(
    make: _Maker, normals: Sequence[Pixels], source: int, generator: np.random.Generator
) -> tuple[Pixels, Mask]:
    normal = normals[source].astype(np.int16)
    for _ in range(_TRIES):
        content, mask = make(normals, source, generator)
        difference = np.abs(content - normal).max(axis=2)
        if np.mean(difference[mask] >= VISIBLE_LEVELS) >= VISIBLE_SHARE:
            return np.where(mask[..., None], content, normals[source]), mask
    # A plain surface has nothing to cut out or to blend in: a stain then.
    stain = np.where(normal < 128, normal + 96, normal - 96).astype(np.uint8)
    return np.where(mask[..., None], stain, normals[source]), mask


def _cutpaste(
    normals: Sequence[Pixels], source: int, generator: np.random.Generator
) -> tuple[Pixels, Mask]:
    image = Image.fromarray(normals[source])
    if generator.random() < 0.5:
        area = generator.uniform(0.02, 0.15) * image.width * image.height
        aspect = np.exp(generator.uniform(np.log(0.3), np.log(3.3)))
        width, height, angle = np.sqrt(area * aspect), np.sqrt(area / aspect), 0.0
    else:
        scale = max(image.size) / _CUTPASTE_SIDE
        width, height = generator.uniform(2, 16) * scale, generator.uniform(10, 25) * scale
        angle = generator.uniform(-45, 45)
    columns = min(image.width, max(1, round(width)))
    rows = min(image.height, max(1, round(height)))
    left = generator.integers(0, image.width - columns + 1)
    top = generator.integers(0, image.height - rows + 1)
    patch = _jittered(image.crop((left, top, left + columns, top + rows)), generator)
    shape = Image.new("L", patch.size, 255)
    if angle:
        patch = patch.rotate(angle, Image.Resampling.BILINEAR, expand=True)
        shape = shape.rotate(angle, Image.Resampling.NEAREST, expand=True)
        patch, shape = (_middle(one, *image.size) for one in (patch, shape))
    left = generator.integers(0, image.width - patch.width + 1)
    top = generator.integers(0, image.height - patch.height + 1)
    image.paste(patch, (int(left), int(top)), shape)
    mask = Image.new("L", image.size, 0)
    mask.paste(shape, (int(left), int(top)))
    return np.array(image), np.array(mask) > 0


def _middle(patch: Image.Image, width: int, height: int) -> Image.Image:
    """The middle of a patch, at most ``width`` × ``height``: a turned one has empty corners."""
    width, height = min(patch.width, width), min(patch.height, height)
    left, top = (patch.width - width) // 2, (patch.height - height) // 2
    return patch.crop((left, top, left + width, top + height))


def _jittered(patch: Image.Image, generator: np.random.Generator) -> Image.Image:
    values = np.asarray(patch, np.float64)
    contrast, brightness = generator.uniform(0.9, 1.1, 2)
    values = (contrast * (values - values.mean()) + values.mean()) * brightness
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _perlin_blend(
    normals: Sequence[Pixels], source: int, generator: np.random.Generator
) -> tuple[Pixels, Mask]:
    height, width = normals[source].shape[:2]
    cells = 2 ** generator.integers(0, 6, 2)
    noise = _perlin_noise((height, width), (int(cells[0]), int(cells[1])), generator)
    # The paper's 0.5, bent so that neither nothing nor most of the image is marked.
    mask = noise > np.clip(0.5, np.quantile(noise, 0.8), np.quantile(noise, 0.995))
    turned = np.rot90(normals[int(generator.integers(len(normals)))], int(generator.integers(4)))
    other = Image.fromarray(np.ascontiguousarray(turned)).resize((width, height))
    shift = [int(generator.integers(side // 4, side - side // 4)) for side in (height, width)]
    recoloured = Image.fromarray(np.roll(np.asarray(other), shift, axis=(0, 1)))
    for choice in generator.choice(len(_RECOLOURINGS), 2, replace=False):
        recoloured = _RECOLOURINGS[choice](recoloured)
    opacity = generator.uniform(0.2, 1.0)
    blend = opacity * np.asarray(recoloured, np.float64) + (1 - opacity) * normals[source]
    return np.rint(blend).astype(np.uint8), mask


def _perlin_noise(
    shape: tuple[int, int], cells: tuple[int, int], generator: np.random.Generator
) -> NDArray[np.float64]:
    """Gradient noise, about -1 to 1, of this shape, on a grid of cells (Perlin 2002)."""
    angles = generator.uniform(0, 2 * np.pi, (cells[0] + 1, cells[1] + 1))
    y, x = ((np.arange(n) + 0.5) * count / n for n, count in zip(shape, cells, strict=True))
    row, column = y.astype(np.int64), x.astype(np.int64)
    down, right = (y - row)[:, None], (x - column)[None, :]

    def corner(below: int, beside: int) -> NDArray[np.float64]:
        angle = angles[row + below][:, column + beside]
        return np.asarray(np.sin(angle) * (down - below) + np.cos(angle) * (right - beside))

    across = right**3 * (right * (6 * right - 15) + 10)
    along = down**3 * (down * (6 * down - 15) + 10)
    upper = corner(0, 0) * (1 - across) + corner(0, 1) * across
    lower = corner(1, 0) * (1 - across) + corner(1, 1) * across
    return np.asarray(np.sqrt(2) * (upper * (1 - along) + lower * along))
