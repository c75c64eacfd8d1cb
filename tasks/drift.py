"""The stream of scores of one model version, tested for drift; and who was told of an alarm."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from stillwatch.bundle import INFO_FILE, read_info
from stillwatch.calibration import Calibration
from stillwatch.drift import Alarm, StreamTests, run_stream_tests
from stillwatch.settings import DriftSettings
from stillwatch.tasks.registry.versions import model_name, registered_version, version_file
from stillwatch.tasks.stream_appearance import unusual_looks
from stillwatch.tasks.tracking.client import BUNDLE, Tracking
from stillwatch.tasks.training.training_images import read_appearance

ANNOUNCED = "stillwatch.drift"
"""Tag of a version of which an alarm was announced; who deletes it is told again."""


@dataclass(frozen=True)
class WatchedStream:
    """What a model version has inspected so far, and what the tests say about it."""

    category: str
    version: int
    scores: NDArray[np.float64]
    """(T,) in the order of inspection."""
    calibration: Calibration
    tests: StreamTests
    alarm: Alarm | None
    alarm_time: str | None
    """When the image of the alarm was inspected; ISO 8601, UTC."""
    looks: tuple[str, ...]
    """Sentences about brightness and sharpness of the last images."""

    @property
    def title(self) -> str:
        """Category and version."""
        return f"{self.category}, version {self.version}"

    @property
    def sentence(self) -> str:
        """The alarm, or that there is none, in one sentence."""
        if self.alarm is None:
            return f"{self.title}: no drift in {self.scores.size} images"
        changed = {
            "martingale": "the scores are no longer what they were",
            "windows": "the scores are not those of the calibration images",
        }[self.alarm.test]
        return (
            f"{self.title}: {changed}, seen at image {self.alarm.image} of {self.scores.size} "
            f"({self.alarm_time})"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON: ``capital`` as its decimal logarithm, test figures where there are any."""
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
            "looks": list(self.looks),
        }


def watch_stream(
    tracking: Tracking, category: str, version: int, rows: pd.DataFrame, settings: DriftSettings
) -> WatchedStream:
    """Test what a registered version has inspected so far.

    Args:
        tracking: holds the version's calibration scores and what it has learnt from.
        category: whose.
        version: of the category's model.
        rows: of this version in the score log, all of them, in the order of inspection: columns
            ``time`` (UTC), ``score``, ``brightness``, ``sharpness``.
        settings: the probability of a false alarm.

    Raises:
        TrackingError: there is no such version, a record is damaged, or the store does not answer.
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
    alarm = tests.alarm
    return WatchedStream(
        category=category,
        version=version,
        scores=scores,
        calibration=info.calibration,
        tests=tests,
        alarm=alarm,
        alarm_time=None if alarm is None else _iso(rows["time"].iloc[alarm.image - 1]),
        looks=unusual_looks(learnt, rows["brightness"], rows["sharpness"]) if learnt else (),
    )


watch = task(name="watch", task_run_name="watch {category}", cache_policy=NO_CACHE)(watch_stream)


def is_announced(tracking: Tracking, category: str, version: int) -> bool:
    """Whether an alarm of this version was announced before.

    Raises:
        TrackingError: there is no such version, or the registry does not answer.
    """
    return ANNOUNCED in registered_version(tracking, category, version).tags


def remember_announced(tracking: Tracking, stream: WatchedStream) -> None:
    """Keep in the registry that the alarm of this version was announced.

    Raises:
        TrackingError: the registry does not answer.
    """
    name = model_name(stream.category)
    said = json.dumps(
        {"announced": datetime.now(UTC).isoformat(timespec="seconds"), "alarm": stream.sentence}
    )
    with tracking.errors(f"tag version {stream.version} of {name}"):
        tracking.client.set_model_version_tag(name, str(stream.version), ANNOUNCED, said)


def _seed(name: str, version: int) -> int:
    """Of its own for each version, the same each time, and known before any score."""
    return int.from_bytes(f"{name}/{version}".encode())


def _iso(time: pd.Timestamp) -> str:
    return time.isoformat(timespec="seconds")
