"""Brightness and sharpness of an image, for the manifest and for the score log."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SHARPNESS_SIDE = 512


def grey_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """The grey image (mode L, Rec. 601 luma) of uint8 (H, W, 3)."""
    return Image.fromarray(pixels).convert("L")


def brightness(grey: Image.Image) -> float:
    """Mean of a grey (mode L) image, 0 to 255."""
    counts = np.array(grey.histogram(), np.float64)
    return float(counts @ np.arange(256) / counts.sum())


def sharpness(grey: Image.Image) -> float:
    """Variance of the Laplacian of a grey image, reduced to at most 512 pixels on a side."""
    factor = max(grey.size) / _SHARPNESS_SIDE
    if factor > 1:
        width, height = (max(1, round(side / factor)) for side in grey.size)
        grey = grey.resize((width, height), Image.Resampling.BOX)
    values = np.pad(np.asarray(grey, np.int16), 1, mode="edge")
    centre = values[1:-1, 1:-1]
    laplacian = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
    return float(np.var(laplacian - 4 * centre, dtype=np.float64))
