"""Draw a category of large images with small defects: sheets of brushed metal.

A defect is a dent or a scratch of some pixels in an image of some megapixels: light on one flank
and dark on the other, so that little of it is left where an image is made smaller. Good sheets have
hairlines along the brushing and specks of dust. The rules of ``stillwatch.sample.canvas`` hold: the
same seed gives the same pixels on every machine.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from stillwatch.files import atomic_folder
from stillwatch.sample.canvas import (
    Draws,
    Field,
    Mask,
    Picture,
    Point,
    circle,
    curve_distance,
    direction,
    expose_metal,
    facing,
    pixel_grid,
    ramp,
    stretch,
    widen,
)
from stillwatch.sample.image_set import require_new, write_png

_NUMBER = 2
"""Of the category in random keys; ``plate`` has 0 and ``cloth`` 1."""
_STREAK = 32
"""Length of the brushing's streaks in pixels."""
_WEAR_AREA = 256 * 256
"""Pixels on which a good sheet has up to 3 hairlines and 5 specks."""
_LIGHT = direction(-1.0, -0.8)
_MOST = 40
"""Pixels of the largest possible defect."""
_DENT_CONTRAST, _SCRATCH_CONTRAST = 45.0, 80.0
"""Grey values by which a flank that faces the light is brighter."""
_DENT_DEPTH = 4.5
"""Of every dent, in pixels: a smaller one has steeper flanks."""


@dataclass(frozen=True)
class SmallDefect:
    """A defect of a sheet; its place is drawn."""

    kind: Literal["dent", "scratch"]
    size: int
    """Longer side of the mask's bounding box in pixels, about."""


def make_small_defects(
    folder: Path,
    *,
    side: int = 2048,
    sizes: tuple[int, int] = (6, 20),
    train_normals: int = 60,
    test_normals: int = 20,
    anomalies: int = 20,
    seed: int = 0,
) -> None:
    """Write a category of square grey images in MVTec layout, with masks.

    Args:
        folder: of the category; is made.
        side: of the images in pixels, at least 128.
        sizes: of the smallest and the largest defect in pixels, from 6 to 40; the others lie
            evenly between.
        train_normals: number of images in ``train/good``.
        test_normals: in ``test/good``.
        anomalies: in ``test/dent`` and ``test/scratch`` together, one defect each.
        seed: 0 or larger.

    Raises:
        LayoutError: the folder exists already.
        StorageError: the folder cannot be written.
    """
    require_new(folder)
    with atomic_folder(folder) as made:
        for split, count in (("train", train_normals), ("test", test_normals)):
            for index in range(count):
                key = (seed, _NUMBER, int(split == "test"), 0, index)
                picture = draw_sheet(key, side, None)
                write_png(made / split / "good" / f"{index:03}.png", picture.pixels)
        for index in range(anomalies):
            defect = SmallDefect(
                "scratch" if index % 2 else "dent",
                sizes[0] + (sizes[1] - sizes[0]) * index // max(1, anomalies - 1),
            )
            picture = draw_sheet((seed, _NUMBER, 1, 1, index), side, defect)
            write_png(made / "test" / defect.kind / f"{index:03}.png", picture.pixels)
            mask = picture.mask.astype(np.uint8) * 255
            write_png(made / "ground_truth" / defect.kind / f"{index:03}_mask.png", mask)


def draw_sheet(key: tuple[int, ...], side: int, defect: SmallDefect | None) -> Picture:
    """Draw one sheet, uint8 (side, side) grey.

    Args:
        key: names the random streams; the same key without a defect gives the same sheet.
        side: in pixels, at least 128.
        defect: None for a normal.
    """
    draws = Draws(*key, 0)
    scene = _brushed(draws, side)
    _wear(draws, scene)
    noise = draws.grain(side)
    exposed = expose_metal(scene, noise)
    mask = np.zeros((side, side), dtype=np.bool_)
    if defect is not None:
        spots = Draws(*key, 1)
        margin = _MOST + 8.0
        centre = spots.between(margin, side - margin), spots.between(margin, side - margin)
        near = _near(centre, margin, side)
        change, touched = _DEFECTS[defect.kind](near, defect.size, spots)
        changed = expose_metal(scene[near.place] + change, noise[near.place])
        mask[near.place] = widen(touched)
        exposed[mask] = changed[mask[near.place]]
    return Picture(exposed, mask)


@dataclass(frozen=True)
class _Near:
    """A part of the image, and the coordinates of its pixels from the point in its middle."""

    place: tuple[slice, slice]
    y: Field
    x: Field


def _near(centre: Point, reach: float, side: int) -> _Near:
    rows, columns = (
        slice(max(0, int(at - reach)), min(side, int(at + reach) + 1)) for at in centre
    )
    y = np.arange(rows.start, rows.stop, dtype=np.float64) - centre[0]
    x = np.arange(columns.start, columns.stop, dtype=np.float64) - centre[1]
    return _Near(
        (rows, columns),
        np.repeat(y[:, None], len(x), axis=1),
        np.repeat(x[None, :], len(y), axis=0),
    )


def _brushed(draws: Draws, side: int) -> Field:
    """Return metal that is brushed from left to right, in uneven light."""
    long = stretch(draws.lattice(side, side // _STREAK), side, _STREAK)
    short = stretch(draws.lattice(side, side // 8), side, 8)
    y, x = pixel_grid(side)
    tilt_y, tilt_x = draws.between(-0.08, 0.08) / side, draws.between(-0.08, 0.08) / side
    light = draws.between(0.94, 1.06) + tilt_y * y + tilt_x * x
    metal = 128.0 + long * draws.between(8.0, 13.0) + short * 5.0 + draws.clouds(64, side) * 4.0
    return metal * light


def _wear(draws: Draws, metal: Field) -> None:
    """Add what every good sheet has, in place: faint hairlines along the brushing, and specks."""
    side = len(metal)
    areas = side * side // _WEAR_AREA
    for _ in range(draws.below(1 + 3 * areas)):
        length, drift = draws.between(10.0, 34.0), draws.between(-2.0, 2.0)
        near = _near((draws.between(0.0, side), draws.between(0.0, side)), 20.0, side)
        ends = [(-drift / 2.0, -length / 2.0), (drift / 2.0, length / 2.0)]
        line = curve_distance(near.y, near.x, ends)
        metal[near.place] += ramp(1.0 - line) * draws.between(8.0, 20.0)
    for _ in range(draws.below(1 + 5 * areas)):
        near = _near((draws.between(0.0, side), draws.between(0.0, side)), 4.0, side)
        speck = ramp(0.5 - circle(near.y, near.x, (0.0, 0.0), draws.between(0.3, 1.2)))
        metal[near.place] += speck * draws.between(-36.0, 16.0)


def _dent(near: _Near, size: int, draws: Draws) -> tuple[Field, Mask]:
    """Press a round dent; its far flank faces the light."""
    radius = (size - 1.0) / 2.0
    fall = ramp(1.0 - (near.y * near.y + near.x * near.x) / (radius * radius))
    lit = facing(fall * fall * _DENT_DEPTH, _LIGHT)
    return lit * (_DENT_CONTRAST * draws.between(0.9, 1.1)), fall > 0.05


def _scratch(near: _Near, size: int, draws: Draws) -> tuple[Field, Mask]:
    """Draw a groove across the brushing, with a bright and a dark flank."""
    way = direction(1.0, draws.between(-0.4, 0.4))
    reach = (size - 5.0) / 2.0
    ends = [(-way[0] * reach, -way[1] * reach), (way[0] * reach, way[1] * reach)]
    bright = ramp(1.5 - curve_distance(near.y, near.x, ends))
    flank = [(y, x + 1.5) for y, x in ends]
    dark = ramp(1.5 - curve_distance(near.y, near.x, flank)) * (1.0 - bright)
    contrast = _SCRATCH_CONTRAST * draws.between(0.9, 1.1)
    return (bright - dark) * contrast, (bright + dark) > 0.1


_DEFECTS = {"dent": _dent, "scratch": _scratch}
