"""Write a caption with a legend of the colours below the picture of an inspected image.

Pillow's built-in font is used, which has the characters of ASCII and no others.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stillwatch.inference.overlays import Outline, draw_outline, heat_colours

NARROWEST = 320
"""Width of a captioned picture in pixels, at least, so that the caption has room."""
_GROUND = (24, 26, 30)
_INK = (240, 240, 240)
_SMALLEST_TEXT, _LARGEST_TEXT = 14, 48
"""Height of the letters in pixels; between them it is a fortieth of the picture's width."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Entry = tuple[NDArray[np.uint8], str]
"""One entry of a legend: a sample, uint8 (h, w, 3), and the words beside it."""


def verdict_line(verdict: str, score: float, reject: float) -> str:
    """The verdict and the score in units of the reject threshold, in ASCII."""
    if reject <= 0:
        return f"{verdict}: score {score:.4g}, threshold {reject:.4g}"
    return f"{verdict}: score / threshold = {score / reject:.2f}"


def text_height(width: int) -> int:
    """Height of the letters below a picture, in pixels.

    Args:
        width: of the captioned picture, in pixels.
    """
    return min(_LARGEST_TEXT, max(_SMALLEST_TEXT, width // 40))


def scale_sample(height: int) -> NDArray[np.uint8]:
    """The colours of a map, with a white mark in the middle: uint8 (height, 5 * height, 3)."""
    width = 5 * height
    colours = heat_colours(np.linspace(0, 1, width, dtype=np.float32)[None])
    sample = np.repeat(colours, height, axis=0)
    half = max(1, height // 12)
    sample[:, width // 2 - half : width // 2 + half] = 255
    return sample


def outline_sample(height: int, outline: Outline) -> NDArray[np.uint8]:
    """A sample of an outline: uint8 (height, 2 * height, 3)."""
    ground = np.full((height, 2 * height, 3), 110, np.uint8)
    inside = np.zeros(ground.shape[:2], np.bool_)
    border = max(3, height // 4)
    inside[border:-border, border:-border] = True
    return draw_outline(ground, inside, outline, thickness=max(1, height // 8))


def add_caption(
    picture: NDArray[np.uint8],
    lines: Sequence[str],
    legend: Sequence[Entry] = (),
    *,
    narrowest: int = NARROWEST,
) -> NDArray[np.uint8]:
    """Add lines of text and a legend below a picture, on a dark bar.

    Args:
        picture: uint8 (H, W, 3).
        lines: in ASCII; one that is too long is broken.
        legend: beside one another as far as there is room.
        narrowest: width of the bar in pixels, at least.

    Returns:
        uint8 (H + bar, max(W, narrowest), 3), with the picture in the upper left corner.
    """
    height, width = picture.shape[:2]
    full = max(width, narrowest)
    size = text_height(full)
    font = ImageFont.load_default(size)
    gap, pitch = size // 2, size * 3 // 2
    broken = [part for line in lines for part in _wrap(line, full - 2 * gap, font)]
    placed = _place(legend, full, gap, font)
    rows = len(broken) + (placed[-1][0] + 1 if placed else 0)
    bar = Image.new("RGB", (full, rows * pitch + 2 * gap), _GROUND)
    draw = ImageDraw.Draw(bar)
    for row, line in enumerate(broken):
        draw.text((gap, gap + row * pitch), line, _INK, font)
    for (row, left), (sample, words) in zip(placed, legend, strict=True):
        top = gap + (len(broken) + row) * pitch
        bar.paste(Image.fromarray(sample), (left, top + (size * 5 // 4 - len(sample)) // 2))
        draw.text((left + sample.shape[1] + gap, top), words, _INK, font)
    whole = np.full((height + bar.height, full, 3), _GROUND, np.uint8)
    whole[:height, :width] = picture
    whole[height:] = np.asarray(bar)
    return whole


def _wrap(line: str, room: int, font: Font) -> list[str]:
    """Break a line between words so that each part is at most ``room`` pixels wide."""
    parts: list[str] = []
    for word in line.split():
        longer = f"{parts[-1]} {word}" if parts else word
        if parts and font.getlength(longer) <= room:
            parts[-1] = longer
        else:
            parts.append(word)
    return parts


def _place(legend: Sequence[Entry], full: int, gap: int, font: Font) -> list[tuple[int, int]]:
    """Row and left end, in pixels, of each entry of a legend on a bar of a width in pixels."""
    placed: list[tuple[int, int]] = []
    row, left = 0, gap
    for sample, words in legend:
        needed = sample.shape[1] + gap + round(font.getlength(words))
        if left > gap and left + needed + gap > full:
            row, left = row + 1, gap
        placed.append((row, left))
        left += needed + 3 * gap
    return placed
