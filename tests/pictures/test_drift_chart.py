from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillwatch.calibration import calibrate
from stillwatch.drift import run_stream_tests
from stillwatch.pictures import drift_chart, save_figure

RNG = np.random.default_rng(0)
CALIBRATION = calibrate(RNG.normal(5, 1, 40), alpha_reject=0.05, alpha_review=0.15)
STREAMS = {
    "quiet": RNG.normal(5, 1, 400),
    "martingale": np.concatenate([RNG.normal(5, 1, 400), RNG.normal(8, 1, 150)]),
    "windows": np.concatenate([np.tile(CALIBRATION.scores, 5), np.full(300, 5.9)]),
    "one": np.array([5.0]),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_is_drawn_with_and_without_an_alarm(kind: str, tmp_path: Path) -> None:
    scores = STREAMS[kind]
    tests = run_stream_tests(scores, CALIBRATION.scores, probability=0.01, seed=0)
    assert (tests.alarm is not None) == (kind in ("martingale", "windows"))
    save_figure(drift_chart(scores, CALIBRATION, tests, title="plate, version 1"), tmp_path / "x")
    pixels = np.asarray(Image.open(tmp_path / "x").convert("RGB")).astype(int)
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 120) & (pixels[..., 2] < 60)
    assert red.any() == (tests.alarm is not None), "the alarm's line"
