import json
from pathlib import Path

import numpy as np
import pytest
from made_stores import new_store
from made_streams import drifting, inspected, make_champion, quiet

from stillwatch.bundle import INFO_FILE
from stillwatch.errors import BundleError, TrackingError
from stillwatch.settings import Settings
from stillwatch.tasks.drift import (
    LAST_IMAGES,
    WatchedStream,
    is_announced,
    remember_announced,
    unusual_appearance,
    watch_stream,
)
from stillwatch.tasks.registry.versions import champions
from stillwatch.tasks.tracking.client import BUNDLE, Tracking, open_tracking
from stillwatch.tasks.training.training_images import TrainingAppearance

LEARNT = TrainingAppearance(tuple(np.linspace(110, 130, 30)), tuple(np.linspace(90, 110, 30)))


@pytest.fixture
def tracking(settings: Settings, tmp_path: Path) -> Tracking:
    """A store with version 1 of ``plate`` as champion."""
    tracking = new_store(settings)
    assert champions(tracking) == {}
    make_champion(tracking, tmp_path / "model")
    assert champions(tracking) == {"plate": 1}
    return tracking


def watched(
    tracking: Tracking, settings: Settings, scores: "np.ndarray", brightness: float = 120
) -> WatchedStream:
    rows = inspected(scores, brightness=brightness)
    return watch_stream(tracking, "plate", 1, rows, settings.drift)


def test_an_unchanged_stream_and_an_empty_stream_have_no_alarm(
    tracking: Tracking, settings: Settings
) -> None:
    for count in (0, 1, 500):
        stream = watched(tracking, settings, quiet(count))
        assert stream.alarm is None
        assert stream.sentence == f"plate, version 1: no drift in {count} images"
        assert json.loads(json.dumps(stream.as_dict(), allow_nan=False))["alarm"] is None


def test_an_alarm_has_a_time_and_stays(tracking: Tracking, settings: Settings) -> None:
    first = watched(tracking, settings, drifting(301, 40))
    assert first.alarm is not None
    assert 301 <= first.alarm.image <= 320
    minutes = first.alarm.image - 1
    assert first.alarm_time == f"2026-11-22T{10 + minutes // 60}:{minutes % 60:02}:00+00:00"
    assert first.alarm_time in first.sentence
    assert "the scores have changed" in first.sentence
    later = watched(tracking, settings, np.concatenate([drifting(301, 40), quiet(500)]))
    assert (later.alarm, later.alarm_time) == (first.alarm, first.alarm_time)
    said = json.loads(json.dumps(first.as_dict(), allow_nan=False))
    assert said["alarm"]["test"] == "martingale"
    assert said["log10_capital"] > said["log10_capital_level"] == 2


def test_a_smaller_false_alarm_probability_delays_the_alarm(
    tracking: Tracking, settings: Settings
) -> None:
    strict = settings.drift.model_copy(update={"false_alarm_probability": 1e-6})
    rows = inspected(drifting(301))
    late = watch_stream(tracking, "plate", 1, rows, strict).alarm
    soon = watch_stream(tracking, "plate", 1, rows, settings.drift).alarm
    assert late is not None
    assert soon is not None
    assert late.image > soon.image


def test_announced_alarms_are_recorded_in_the_registry(
    tracking: Tracking, settings: Settings, tmp_path: Path
) -> None:
    stream = watched(tracking, settings, drifting(301))
    assert not is_announced(tracking, "plate", 1)
    remember_announced(tracking, stream)
    assert is_announced(open_tracking(settings), "plate", 1)
    second = make_champion(tracking, tmp_path / "next")
    assert not is_announced(tracking, "plate", second), "a new champion may drift again"


def test_changed_brightness_is_described(tracking: Tracking, settings: Settings) -> None:
    dark = watched(tracking, settings, quiet(100), brightness=80)
    assert dark.alarm is None, "a note alone is no alarm"
    (sentence,) = dark.appearance_notes
    assert "darker" in sentence
    assert "median grey value 80, usually 120" in sentence
    assert watched(tracking, settings, quiet(100)).appearance_notes == ()


def test_a_damaged_bundle_and_an_unknown_version_are_refused(
    tracking: Tracking, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(TrackingError, match="has no version 7"):
        watch_stream(tracking, "plate", 7, inspected(quiet(1)), settings.drift)
    (tmp_path / "model" / "artifacts" / BUNDLE / INFO_FILE).write_text("{")
    with pytest.raises(BundleError, match="truncated"):
        watched(tracking, settings, quiet(1))


@pytest.mark.parametrize(
    ("brightness", "sharpness", "words"),
    [
        (120, 100, []),
        (125, 105, []),
        (60, 100, ["darker"]),
        (200, 100, ["brighter"]),
        (120, 20, ["more blurred"]),
        (120, 900, ["sharper"]),
        (0, 0, ["darker", "more blurred"]),
    ],
)
def test_each_unusual_appearance_has_its_sentence(
    brightness: float, sharpness: float, words: list[str]
) -> None:
    notes = unusual_appearance(LEARNT, np.full(50, brightness), np.full(50, sharpness))
    assert len(notes) == len(words)
    for note, word in zip(notes, words, strict=True):
        assert word in note


def test_only_enough_of_the_last_images_count() -> None:
    before, dark = np.full(1000, 120.0), np.full(LAST_IMAGES, 60.0)
    sharpness = np.full(1000 + LAST_IMAGES, 100.0)
    (note,) = unusual_appearance(LEARNT, np.concatenate([before, dark]), sharpness)
    assert "median grey value 60" in note
    assert unusual_appearance(LEARNT, np.concatenate([dark, before]), sharpness) == ()
    assert unusual_appearance(LEARNT, [60] * 9, [100] * 9) == ()


def test_nearly_identical_training_images_do_not_make_others_unusual() -> None:
    same = TrainingAppearance((120.0,) * 20, (100.0,) * 20)
    assert unusual_appearance(same, np.full(50, 124), np.full(50, 110)) == ()
