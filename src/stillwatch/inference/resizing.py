"""Bring anomaly maps and masks to the size of an image."""

import cv2
import numpy as np
from numpy.typing import NDArray

Extent = tuple[float, float]
"""Height and width of what a map covers, relative to its image: ``LevelMaps.extent``."""
WHOLE: Extent = (1.0, 1.0)


def bilinear(
    values: NDArray[np.float32], height: int, width: int, extent: Extent = WHOLE
) -> NDArray[np.float32]:
    """Resize a map to an image's size: plain bilinear, half-pixel centres, edges kept.

    Args:
        values: float32 (h, w).
        height: of the image in pixels.
        width: of the image in pixels.
        extent: of the map; what reaches beyond the image is cut off.
    """
    full = round(height * extent[0]), round(width * extent[1])
    if values.shape != full:
        # Pillow's bilinear averages over an area when it shrinks, OpenCV's does not.
        resized = cv2.resize(values, full[::-1], interpolation=cv2.INTER_LINEAR)
        # Rounding must not raise a map above its maximum: the maximum could cross a threshold.
        values = np.asarray(np.clip(resized, values.min(), values.max()), dtype=np.float32)
    return values[:height, :width]


def resize_map(
    anomaly_map: NDArray[np.float32], height: int, width: int, extent: Extent = WHOLE
) -> NDArray[np.float32]:
    """Resize a map to an image's own size; the pixel at its maximum keeps the maximum.

    ``resize_map(m, h, w) > t`` therefore has a pixel exactly when ``m > t`` has one, for every t.

    Args:
        anomaly_map: float32 (h, w).
        height: of the image in pixels.
        width: of the image in pixels.
        extent: of the map, as ``InspectedImage.extent``.
    """
    resized = bilinear(anomaly_map, height, width, extent).copy()
    peak = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    at = tuple(
        min(int((2 * index + 1) * side * reach / (2 * count)), side - 1)
        for index, count, side, reach in zip(
            peak, anomaly_map.shape, (height, width), extent, strict=True
        )
    )
    resized[at] = anomaly_map.max()
    return resized


def resize_mask_keeping_rejection(
    mask: NDArray[np.bool_], height: int, width: int, extent: Extent = WHOLE
) -> NDArray[np.bool_]:
    """Resize a mask to an image's own size; it keeps a pixel exactly when ``mask`` has one."""
    resized = bilinear(mask.astype(np.float32), height, width, extent) >= 0.5
    if mask.any() and not resized.any():
        resized = resize_map(mask.astype(np.float32), height, width, extent) >= 0.5
    return np.asarray(resized)
