"""Test the score stream of a model version for drift; record announced alarms.

The image appearance (brightness and sharpness) is compared with plain limits, in sentences for a
person: a changed appearance may explain an alarm, but is none.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from stillwatch.bundle import INFO_FILE, read_info
from stillwatch.calibration import Calibration
from stillwatch.drift import Alarm, StreamTests, run_stream_tests
from stillwatch.settings import DriftSettings
from stillwatch.tasks.registry.versions import model_name, registered_version, version_file
from stillwatch.tasks.tracking.client import BUNDLE, Tracking
from stillwatch.tasks.training.training_images import TrainingAppearance, read_appearance
from stillwatch.tasks.validation.statistics import (
    EXPOSURE_FLOOR,
    FEWEST_FOR_STATISTICS,
    SHARPNESS_FLOOR,
    brightness_scale,
    robust_z,
    sharpness_scale,
)

ANNOUNCED = "stillwatch.drift"
"""Tag of a version whose alarm was announced; without the tag the alarm is announced again."""
LAST_IMAGES = 100
"""Number of images whose appearance is compared."""
UNUSUAL_Z = 3.0
"""In robust standard deviations: the limit beyond which the median is unusual."""
_FEWEST = 10


@dataclass(frozen=True)
class WatchedStream:
    """The images that a model version has inspected, with the results of the tests."""

    category: str
    version: int
    scores: NDArray[np.float64]
    """(T,) in the order of inspection."""
    calibration: Calibration
    tests: StreamTests
    alarm: Alarm | None
    alarm_time: str | None
    """Inspection time of the image of the alarm; ISO 8601, UTC."""
    appearance_notes: tuple[str, ...]
    """Sentences about unusual brightness and sharpness of the last images."""

    @property
    def title(self) -> str:
        """Category and version."""
        return f"{self.category}, version {self.version}"

    @property
    def sentence(self) -> str:
        """The outcome in one sentence."""
        if self.alarm is None:
            return f"{self.title}: no drift in {self.scores.size} images"
        changed = {
            "martingale": "the scores have changed",
            "windows": "the scores differ from those of the calibration images",
        }[self.alarm.test]
        return (
            f"{self.title}: {changed}, seen at image {self.alarm.image} of {self.scores.size} "
            f"({self.alarm_time})"
        )

    def as_dict(self) -> dict[str, Any]:
        """The stream for JSON; the martingale's capital as a decimal logarithm."""
        windows = self.tests.window_p_values
        return {
            "category": self.category,
            "version": self.version,
            "images": self.scores.size,
            "alarm": self.alarm
            and {"test": self.alarm.test, "image": self.alarm.image, "time": self.alarm_time},
            "log10_capital": float(self.tests.capital[-1]) if self.scores.size else 0.0,
            "log10_capital_level": self.tests.capital_level,
            "windows": windows.size,
            "last_window_p_value": float(windows[-1]) if windows.size else None,
            "last_window_level": float(self.tests.window_levels[-1]) if windows.size else None,
            "appearance_notes": list(self.appearance_notes),
        }


def watch_stream(
    tracking: Tracking, category: str, version: int, rows: pd.DataFrame, settings: DriftSettings
) -> WatchedStream:
    """Test all scores of a registered version for drift.

    Args:
        rows: all rows of this version in the score log, in the order of inspection, with columns
            ``time`` (UTC), ``score``, ``brightness``, ``sharpness``.

    Raises:
        TrackingError: a record is damaged.
        BundleError: the version's ``bundle.json`` is damaged.
    """
    name = model_name(category)
    run_id = registered_version(tracking, category, version).run_id
    info = read_info(version_file(tracking, name, version, f"artifacts/{BUNDLE}/{INFO_FILE}"))
    scores = rows["score"].to_numpy(np.float64)
    tests = run_stream_tests(
        scores,
        info.calibration.scores,
        probability=settings.false_alarm_probability,
        seed=_seed(name, version),
    )
    learnt = read_appearance(tracking, run_id) if run_id else None
    alarm, alarm_time = tests.alarm, None
    if alarm is not None:
        alarm_time = rows["time"].iloc[alarm.image - 1].isoformat(timespec="seconds")
    return WatchedStream(
        category=category,
        version=version,
        scores=scores,
        calibration=info.calibration,
        tests=tests,
        alarm=alarm,
        alarm_time=alarm_time,
        appearance_notes=unusual_appearance(learnt, rows["brightness"], rows["sharpness"])
        if learnt
        else (),
    )


watch = task(name="watch", task_run_name="watch {category}", cache_policy=NO_CACHE)(watch_stream)


def is_announced(tracking: Tracking, category: str, version: int) -> bool:
    """Whether an alarm of this version was announced."""
    return ANNOUNCED in registered_version(tracking, category, version).tags


def remember_announced(tracking: Tracking, stream: WatchedStream) -> None:
    """Record in the registry that the alarm of this version was announced."""
    name = model_name(stream.category)
    said = json.dumps(
        {"announced": datetime.now(UTC).isoformat(timespec="seconds"), "alarm": stream.sentence}
    )
    with tracking.errors(f"tag version {stream.version} of {name}"):
        tracking.client.set_model_version_tag(name, str(stream.version), ANNOUNCED, said)


def _seed(name: str, version: int) -> int:
    """A seed per version, fixed before the first score."""
    return int.from_bytes(f"{name}/{version}".encode())


def unusual_appearance(
    learnt: TrainingAppearance, brightness: ArrayLike, sharpness: ArrayLike
) -> tuple[str, ...]:
    """One sentence for each way in which the last images differ from the training images.

    Args:
        learnt: appearance of the training images.
        brightness: (T,) mean grey values, 0 to 255, in the order of inspection.
        sharpness: (T,) variances of the Laplacian, likewise.
    """
    bright = np.asarray(brightness, dtype=np.float64)[-LAST_IMAGES:]
    sharp = np.asarray(sharpness, dtype=np.float64)[-LAST_IMAGES:]
    if bright.size < _FEWEST or len(learnt.brightness) < FEWEST_FOR_STATISTICS:
        return ()
    usual_bright, usual_sharp = np.array(learnt.brightness), np.array(learnt.sharpness)
    exposure = _median_z(brightness_scale(bright), brightness_scale(usual_bright), EXPOSURE_FLOOR)
    focus = _median_z(sharpness_scale(sharp), sharpness_scale(usual_sharp), SHARPNESS_FLOOR)
    sentences = []
    if abs(exposure) > UNUSUAL_Z:
        sentences.append(
            f"The last {bright.size} images are {'brighter' if exposure > 0 else 'darker'} than "
            f"the training images: median grey value {np.median(bright):.0f}, usually "
            f"{np.median(usual_bright):.0f}. Look at lamp and exposure."
        )
    if abs(focus) > UNUSUAL_Z:
        sentences.append(
            f"The last {sharp.size} images are {'sharper' if focus > 0 else 'more blurred'} than "
            f"the training images: median variance of the Laplacian {np.median(sharp):.3g}, "
            f"usually {np.median(usual_sharp):.3g}. Look at lens and focus."
        )
    return tuple(sentences)


def _median_z(values: NDArray[np.float64], usual: NDArray[np.float64], floor: float) -> float:
    return float(robust_z(np.array([np.median(values)]), usual, floor)[0])
