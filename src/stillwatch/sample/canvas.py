"""Drawing tools of the built-in sample set, with the same result to the last bit on every machine.

Three rules make it so, and every function of the sample set keeps them:

* Random numbers are the raw 64-bit words of PCG64, whose stream NumPy guarantees; the methods of
  ``numpy.random.Generator`` may change between releases and may fuse a multiply and an add.
* Arrays meet only ``+ - * / sqrt floor`` and comparisons, one ufunc each, in float64. IEEE 754
  rounds each of them correctly, so SIMD width and compiler make no difference. There are no
  transcendental functions, no ``**``, no matrix products, no float reductions.
* Rotations come from the half-angle tangent, which needs no sine or cosine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]
Mask = NDArray[np.bool_]
Point = tuple[float, float]

SIZE = 256

_TOP_BITS = float(1 << 53)


@dataclass(frozen=True)
class Picture:
    """One finished sample image: ``pixels`` uint8 (H, W) or (H, W, 3), ``mask`` bool (H, W)."""

    pixels: NDArray[np.uint8]
    mask: Mask


class Draws:
    """Random draws from one PCG64 stream, named by a key of non-negative integers."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def unit(self) -> float:
        """Return a number in [0, 1)."""
        return (int(self._bits.random_raw()) >> 11) / _TOP_BITS

    def between(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * self.unit()

    def below(self, count: int) -> int:
        """Return an integer in 0 .. count - 1."""
        return int(self.unit() * count)

    def lattice(self, *shape: int) -> Field:
        """Return uniform numbers in [-1, 1], in 256 steps."""
        count = int(np.prod(shape))
        return (self._bytes(count).reshape(shape).astype(np.float64) - 127.5) / 127.5

    def grain(self, side: int = SIZE) -> Field:
        """Return (side, side) bell-shaped noise of mean 0 and deviation 1: sums of 4 bytes."""
        parts = self._bytes(4 * side * side).reshape(4, side, side).astype(np.int32)
        noise: Field = (parts[0] + parts[1] + parts[2] + parts[3] - 510).astype(np.float64) / 147.8
        return noise

    def clouds(self, cell: int, side: int = SIZE) -> Field:
        """Return (side, side) smooth noise in [-1, 1] with features of about ``cell`` pixels."""
        count = side // cell + 2
        across = stretch(self.lattice(count, count), side, cell)
        return stretch(across.T, side, cell).T

    def _bytes(self, count: int) -> NDArray[np.uint8]:
        words = self._bits.random_raw((count + 7) // 8)
        return words.astype("<u8").view(np.uint8)[:count]


def stretch(knots: Field, length: int, cell: int) -> Field:
    """Interpolate the last axis smoothly from one knot every ``cell`` pixels to ``length`` pixels.

    The knots repeat, so that ``length // cell`` of them give a seamless, periodic texture.
    """
    count = knots.shape[-1]
    position = np.arange(length, dtype=np.float64) / cell
    left = np.floor(position)
    weight = smooth_step(position - left)
    index = left.astype(np.int64)
    start = knots[..., index % count]
    return start + (knots[..., (index + 1) % count] - start) * weight


def look_up(texture: Field, y: Field, x: Field) -> Field:
    """Read a periodic ``texture`` (H, W) at any coordinates, bilinearly."""
    height, width = texture.shape
    top, left = np.floor(y), np.floor(x)
    down, right = y - top, x - left
    border = np.concatenate([texture, texture[:1]])
    padded = np.concatenate([border, border[:, :1]], axis=1).ravel()
    corner = (top.astype(np.int64) % height) * (width + 1) + left.astype(np.int64) % width
    upper, lower = padded[corner], padded[corner + width + 1]
    upper = upper + (padded[corner + 1] - upper) * right
    lower = lower + (padded[corner + width + 2] - lower) * right
    between: Field = upper + (lower - upper) * down
    return between


def smooth_step(x: Field) -> Field:
    """Map [0, 1] onto [0, 1] with flat ends."""
    return x * x * (3.0 - 2.0 * x)


def ramp(x: Field) -> Field:
    """Clip to [0, 1]."""
    return np.minimum(np.maximum(x, 0.0), 1.0)


def pixel_grid(side: int = SIZE) -> tuple[Field, Field]:
    """Return (y, x), each (side, side), in pixels from the image's centre."""
    line = np.arange(side, dtype=np.float64) - (side - 1) / 2
    return np.repeat(line[:, None], side, axis=1), np.repeat(line[None, :], side, axis=0)


def turn(y: Field, x: Field, half_tangent: float) -> tuple[Field, Field]:
    """Rotate coordinates by the angle whose half has this tangent."""
    square = half_tangent * half_tangent
    cosine = (1.0 - square) / (1.0 + square)
    sine = 2.0 * half_tangent / (1.0 + square)
    return cosine * y - sine * x, cosine * x + sine * y


def direction(y: float, x: float) -> Point:
    """Return the unit vector along (y, x)."""
    length = sqrt(y * y + x * x)
    return y / length, x / length


def circle(y: Field, x: Field, centre: Point, radius: float) -> Field:
    """Return the signed distance to a circle, negative inside, in pixels."""
    dy, dx = y - centre[0], x - centre[1]
    return np.sqrt(dy * dy + dx * dx) - radius


def rounded_box(y: Field, x: Field, centre: Point, half: Point, corner: float) -> Field:
    """Return the signed distance to a box with round corners, negative inside, in pixels."""
    dy = np.abs(y - centre[0]) - (half[0] - corner)
    dx = np.abs(x - centre[1]) - (half[1] - corner)
    outer_y, outer_x = np.maximum(dy, 0.0), np.maximum(dx, 0.0)
    outside = np.sqrt(outer_y * outer_y + outer_x * outer_x)
    distance: Field = outside + np.minimum(np.maximum(dy, dx), 0.0) - corner
    return distance


def curve_distance(y: Field, x: Field, points: Sequence[Point]) -> Field:
    """Return the distance to a chain of straight segments, in pixels."""
    nearest = np.full(y.shape, 4.0 * SIZE * SIZE)
    for (y0, x0), (y1, x1) in pairwise(points):
        step_y, step_x = y1 - y0, x1 - x0
        share = ramp(((y - y0) * step_y + (x - x0) * step_x) / (step_y * step_y + step_x * step_x))
        dy, dx = y - (y0 + share * step_y), x - (x0 + share * step_x)
        nearest = np.minimum(nearest, dy * dy + dx * dx)
    distance: Field = np.sqrt(nearest)
    return distance


def bow(centre: Point, way: Point, reach: float, bulge: float) -> list[Point]:
    """Return the points of a quadratic Bézier curve that bulges to one side.

    Args:
        centre: of the line between its ends.
        way: unit vector along that line.
        reach: from the centre to each end, in pixels.
        bulge: from the centre to the control point, in pixels.
    """
    (y, x), (way_y, way_x) = centre, way
    start = y - way_y * reach, x - way_x * reach
    control = y - way_x * bulge, x + way_y * bulge
    end = y + way_y * reach, x + way_x * reach
    steps = 12
    points = []
    for step in range(steps + 1):
        s = step / steps
        a, b, c = (1 - s) * (1 - s), 2 * s * (1 - s), s * s
        at_y, at_x = (
            a * first + b * second + c * third
            for first, second, third in zip(start, control, end, strict=True)
        )
        points.append((at_y, at_x))
    return points


def facing(height: Field, light: Point) -> Field:
    """Return the slope of a relief towards the light, by central differences; zero at its border.

    Args:
        height: in pixels, at every pixel.
        light: unit vector (y, x) to the lamp.
    """
    along_y, along_x = np.zeros_like(height), np.zeros_like(height)
    along_y[1:-1] = (height[2:] - height[:-2]) / 2.0
    along_x[:, 1:-1] = (height[:, 2:] - height[:, :-2]) / 2.0
    return along_y * light[0] + along_x * light[1]


def falloff(draws: Draws, tilt: float, vignette: float) -> Field:
    """Return the light over the field of view: a slight tilt and the lens's vignette."""
    tilt_y, tilt_x = draws.between(-tilt, tilt), draws.between(-tilt, tilt)
    grid_y, grid_x = pixel_grid()
    y, x = grid_y / SIZE, grid_x / SIZE
    return 1.0 + tilt_y * y + tilt_x * x - vignette * (y * y + x * x)


def expose_metal(scene: Field, noise: Field) -> NDArray[np.uint8]:
    """Return the photograph of a grey scene: blurred, with noise that rises with the light."""
    seen = soften(scene)
    return to_bytes(seen + noise * (1.0 + seen / 200.0), 1)


def soften(image: Field) -> Field:
    """Blur by the 3 x 3 binomial kernel over the first two axes: the lens of the sample camera."""
    rows = np.concatenate([image[:1], image, image[-1:]])
    rows = (rows[:-2] + rows[2:] + image * 2.0) / 4.0
    both = np.concatenate([rows[:, :1], rows, rows[:, -1:]], axis=1)
    blurred: Field = (both[:, :-2] + both[:, 2:] + rows * 2.0) / 4.0
    return blurred


def widen(mask: Mask) -> Mask:
    """Grow a mask by one pixel in all eight directions: as far as :func:`soften` spreads it."""
    rows = mask.copy()
    rows[1:] |= mask[:-1]
    rows[:-1] |= mask[1:]
    both = rows.copy()
    both[:, 1:] |= rows[:, :-1]
    both[:, :-1] |= rows[:, 1:]
    return both


def to_bytes(image: Field, step: int) -> NDArray[np.uint8]:
    """Round to multiples of ``step`` and clip to 0 .. 255."""
    rounded: Field = np.floor(image / step + 0.5) * step
    return np.asarray(np.minimum(np.maximum(rounded, 0.0), 255.0), dtype=np.uint8)
