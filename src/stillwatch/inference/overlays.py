"""Draw anomaly maps and masks over an image, without matplotlib.

An edge box has no matplotlib.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from stillwatch.inference.resizing import resize_map, resize_mask_keeping_rejection

MASK_COLOUR = (64, 220, 255)
TRUTH_COLOUR = (0, 225, 135)

# From black over red to yellow: the lightness increases with the value.
_HEAT_TABLE: NDArray[np.uint8] = np.asarray(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]
)
_OPACITY = 0.85


def overlay(
    pixels: NDArray[np.uint8],
    anomaly_map: NDArray[np.float32],
    mask: NDArray[np.bool_],
    *,
    vmin: float,
    vmax: float,
) -> NDArray[np.uint8]:
    """Lay a map over its image, the more opaque the higher, and draw the mask's contour.

    Args:
        pixels: uint8 (H, W, 3).
        anomaly_map: float32 (h, w), raw.
        mask: bool (h, w) or (H, W).
        vmin: raw value up to which the image is left as it is.
        vmax: raw value that gets the brightest colour.

    Returns:
        uint8 (H, W, 3).
    """
    height, width = pixels.shape[:2]
    share = heat_share(resize_map(anomaly_map, height, width), vmin, vmax)
    opacity = (share * share * (3 - 2 * share) * np.float32(_OPACITY))[..., None]
    blended = pixels * (1 - opacity) + heat_colours(share) * opacity
    return draw_contour(blended.round().astype(np.uint8), mask, MASK_COLOUR)


def heat_colours(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colour a map in [0, 1], (H, W): uint8 (H, W, 3)."""
    return _HEAT_TABLE[(share * 255).round().astype(np.uint8)]


def heat_share(anomaly_map: NDArray[np.float32], vmin: float, vmax: float) -> NDArray[np.float32]:
    """Scale a map to [0, 1] between two raw values; all zero if they leave no room."""
    if vmax <= vmin:
        return np.zeros(anomaly_map.shape, dtype=np.float32)
    share = (anomaly_map - np.float32(vmin)) / np.float32(vmax - vmin)
    return np.asarray(np.clip(share, 0, 1), dtype=np.float32)


def draw_contour(
    pixels: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Draw a mask's outline around it, so that even one pixel of mask stays in sight.

    Args:
        pixels: uint8 (H, W, 3); left as it is.
        mask: bool, (H, W) or any other size.
        colour: RGB; a thin dark line outside sets it off from a bright ground.

    Returns:
        uint8 (H, W, 3).
    """
    height, width = pixels.shape[:2]
    inner = resize_mask_keeping_rejection(mask, height, width).astype(np.uint8)
    thickness = max(1, round(min(height, width) / 100))
    line = cv2.dilate(inner, _disc(thickness))
    edge = cv2.dilate(line, _disc(max(1, thickness // 2)))
    drawn = pixels.copy()
    drawn[edge > line] = 0
    drawn[line > inner] = colour
    return drawn


def _disc(radius: int) -> NDArray[np.uint8]:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(kernel, dtype=np.uint8)
