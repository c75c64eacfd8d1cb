"""Draw anomaly maps and outlines over an image, without matplotlib.

An edge box has no matplotlib.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stillwatch.inference.resizing import resize_map, resize_mask_keeping_rejection


@dataclass(frozen=True)
class Outline:
    """Colour and form of an outline. The forms differ, so that colours need not be told apart."""

    colour: tuple[int, int, int]
    """RGB."""
    dash: tuple[float, float] | None = None
    """Lengths of dash and gap in line widths; None: a solid line. Gaps are black."""


REJECT_OUTLINE = Outline((64, 220, 255))
"""Where the map is above the reject threshold."""
REVIEW_OUTLINE = Outline((255, 255, 255), dash=(1.2, 1.2))
"""Where the map of an image for review is above the review threshold: dotted."""
MISSED_OUTLINE = Outline((255, 140, 225), dash=(4, 2.5))
"""Where the map of a defect that passes is highest: dashed."""
TRUTH_OUTLINE = Outline((0, 225, 135))
"""The ground truth."""

# From black over red to yellow: the lightness increases with the value.
_HEAT_TABLE: NDArray[np.uint8] = np.asarray(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]
)
_OPACITY = 0.85


def overlay(
    pixels: NDArray[np.uint8],
    anomaly_map: NDArray[np.float32],
    mask: NDArray[np.bool_],
    outline: Outline,
    *,
    vmin: float,
    vmax: float,
) -> NDArray[np.uint8]:
    """Lay a map over its image, the more opaque the higher, and draw the mask's outline.

    Args:
        pixels: uint8 (H, W, 3).
        anomaly_map: float32 (h, w), raw.
        mask: bool (h, w) or (H, W).
        outline: of the mask.
        vmin: raw value up to which the image is left as it is.
        vmax: raw value that gets the brightest colour.

    Returns:
        uint8 (H, W, 3).
    """
    height, width = pixels.shape[:2]
    share = heat_share(resize_map(anomaly_map, height, width), vmin, vmax)
    opacity = (share * share * (3 - 2 * share) * np.float32(_OPACITY))[..., None]
    blended = pixels * (1 - opacity) + heat_colours(share) * opacity
    return draw_outline(blended.round().astype(np.uint8), mask, outline)


def map_limits(maps: Sequence[NDArray[np.float32]], reject: float) -> tuple[float, float]:
    """The raw values of the darkest and brightest colour of maps that are looked at together.

    The darkest is the median of all pixels, that is, quiet surface; the threshold is in the middle.
    """
    quiet = float(np.median(np.concatenate([part.ravel() for part in maps])))
    reach = max(reject - quiet, abs(reject) * 1e-6, 1e-12)
    return reject - reach, reject + reach


def heat_colours(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colour a map in [0, 1], (H, W): uint8 (H, W, 3)."""
    return _HEAT_TABLE[(share * 255).round().astype(np.uint8)]


def heat_share(anomaly_map: NDArray[np.float32], vmin: float, vmax: float) -> NDArray[np.float32]:
    """Scale a map to [0, 1] between two raw values; all zero if they leave no room."""
    if vmax <= vmin:
        return np.zeros(anomaly_map.shape, dtype=np.float32)
    share = (anomaly_map - np.float32(vmin)) / np.float32(vmax - vmin)
    return np.asarray(np.clip(share, 0, 1), dtype=np.float32)


def draw_outline(
    pixels: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    outline: Outline,
    *,
    thickness: int | None = None,
) -> NDArray[np.uint8]:
    """Draw a mask's outline around it, so that even one pixel of mask stays in sight.

    Args:
        pixels: uint8 (H, W, 3); left as it is.
        mask: bool, (H, W) or any other size.
        outline: a thin dark line outside sets it off from a bright ground.
        thickness: of the line in pixels; None: a hundredth of the picture's shorter side.

    Returns:
        uint8 (H, W, 3).
    """
    height, width = pixels.shape[:2]
    inner = resize_mask_keeping_rejection(mask, height, width).astype(np.uint8)
    if thickness is None:
        thickness = max(1, round(min(height, width) / 100))
    line = cv2.dilate(inner, _disc(thickness))
    edge = cv2.dilate(line, _disc(max(1, thickness // 2)))
    drawn = pixels.copy()
    drawn[edge > inner] = 0
    coloured = line > inner
    if outline.dash is not None and coloured.any():
        coloured &= _dashes(line, outline.dash, thickness)
    drawn[coloured] = outline.colour
    return drawn


def _dashes(
    region: NDArray[np.uint8], dash: tuple[float, float], thickness: int
) -> NDArray[np.bool_]:
    """Where the nearest point of a region's contour belongs to a dash and not to a gap.

    Args:
        region: uint8 (H, W), with at least one pixel set.
        dash: lengths of dash and gap in line widths.
        thickness: of the line in pixels.
    """
    contours, _ = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    off_contour = np.ones(region.shape, np.uint8)
    on_dash = np.zeros(region.shape, np.bool_)
    period = sum(dash) * thickness
    for contour in contours:
        points = contour[:, 0]
        steps = np.hypot(*np.diff(points, axis=0, append=points[:1]).T)
        along = np.cumsum(steps) - steps
        count = max(2, round(float(steps.sum()) / period))
        phase = along / max(float(steps.sum()), 1.0) * count % 1
        off_contour[points[:, 1], points[:, 0]] = 0
        on_dash[points[:, 1], points[:, 0]] = phase < dash[0] / sum(dash)
    _, nearest = cv2.distanceTransformWithLabels(
        off_contour, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_label = np.zeros(int(nearest.max()) + 1, np.bool_)
    of_label[nearest[off_contour == 0]] = on_dash[off_contour == 0]
    return np.asarray(of_label[nearest])


def _disc(radius: int) -> NDArray[np.uint8]:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(kernel, dtype=np.uint8)
