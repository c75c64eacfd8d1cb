"""Brightness and sharpness of what was inspected last beside what the detector has learnt from.

Plain thresholds, in words for a person. No test that promises anything: a changed look is a reason
for an alarm, not an alarm.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillwatch.tasks.training.training_images import TrainingAppearance
from stillwatch.tasks.validation.statistics import (
    EXPOSURE_FLOOR,
    FEWEST_FOR_STATISTICS,
    SHARPNESS_FLOOR,
    brightness_scale,
    robust_z,
    sharpness_scale,
)

LAST = 100
"""Images that are looked at."""
UNUSUAL_Z = 3.0
"""Robust standard deviations beyond which their median is unusual."""
_FEWEST = 10


def unusual_looks(
    learnt: TrainingAppearance, brightness: ArrayLike, sharpness: ArrayLike
) -> tuple[str, ...]:
    """One sentence for each way in which the last images look unlike those that were learnt from.

    Args:
        learnt: of the model version.
        brightness: (T,) mean grey values, 0 to 255, in the order of inspection.
        sharpness: (T,) variances of the Laplacian, likewise.
    """
    bright = np.asarray(brightness, dtype=np.float64)[-LAST:]
    sharp = np.asarray(sharpness, dtype=np.float64)[-LAST:]
    if bright.size < _FEWEST or len(learnt.brightness) < FEWEST_FOR_STATISTICS:
        return ()
    usual_bright, usual_sharp = np.array(learnt.brightness), np.array(learnt.sharpness)
    exposure = _median_z(brightness_scale(bright), brightness_scale(usual_bright), EXPOSURE_FLOOR)
    focus = _median_z(sharpness_scale(sharp), sharpness_scale(usual_sharp), SHARPNESS_FLOOR)
    sentences = []
    if abs(exposure) > UNUSUAL_Z:
        sentences.append(
            f"The last {bright.size} images are {'brighter' if exposure > 0 else 'darker'} than "
            f"those it has learnt from: median grey value {np.median(bright):.0f}, usually "
            f"{np.median(usual_bright):.0f}. Look at lamp and exposure."
        )
    if abs(focus) > UNUSUAL_Z:
        sentences.append(
            f"The last {sharp.size} images are {'sharper' if focus > 0 else 'more blurred'} than "
            f"those it has learnt from: median variance of the Laplacian {np.median(sharp):.3g}, "
            f"usually {np.median(usual_sharp):.3g}. Look at lens and focus."
        )
    return tuple(sentences)


def _median_z(values: NDArray[np.float64], usual: NDArray[np.float64], floor: float) -> float:
    return float(robust_z(np.array([np.median(values)]), usual, floor)[0])
