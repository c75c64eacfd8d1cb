"""Brightness and sharpness of an image, for the manifest and for the score log."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageStat

_SHARPNESS_SIDE = 512


def grey_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """The grey image (mode L, Rec. 601 luma) of uint8 (H, W, 3)."""
    return Image.fromarray(pixels).convert("L")


def brightness(grey: Image.Image) -> float:
    """Mean of a grey (mode L) image, 0 to 255."""
    return ImageStat.Stat(grey).mean[0]


def sharpness(grey: Image.Image) -> float:
    """Variance of the Laplacian of a grey image, reduced to at most 512 pixels on a side."""
    factor = max(grey.size) / _SHARPNESS_SIDE
    if factor > 1:
        width, height = (max(1, round(side / factor)) for side in grey.size)
        grey = grey.resize((width, height), Image.Resampling.BOX)
    laplacian = cv2.Laplacian(np.asarray(grey), cv2.CV_16S, borderType=cv2.BORDER_REPLICATE)
    return float(np.var(laplacian, dtype=np.float64))
