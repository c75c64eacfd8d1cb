import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from stillwatch.drift import Alarm, StreamTests, run_stream_tests
from stillwatch.drift.windows import WINDOW

CALIBRATION = 30


def examined(values: NDArray[np.float64], probability: float = 0.01, seed: int = 0) -> StreamTests:
    return run_stream_tests(
        values[CALIBRATION:], values[:CALIBRATION], probability=probability, seed=seed
    )


@pytest.mark.parametrize("ties", [False, True])
def test_few_exchangeable_streams_alarm_in_either_test(ties: bool) -> None:
    rng = np.random.default_rng(0)
    repeats, budget = 150, 0.1
    draws = rng.normal(size=(repeats, CALIBRATION + 3 * WINDOW))
    if ties:
        draws = np.round(draws)
    found = [examined(row, budget, seed).alarm for seed, row in enumerate(draws)]
    for test in ("martingale", "windows"):
        alarms = sum(alarm is not None and alarm.test == test for alarm in found)
        assert alarms <= binom.ppf(0.9999, repeats, budget)


def test_an_alarm_is_the_first_of_both_and_stays_when_more_images_come() -> None:
    values = np.random.default_rng(0).normal(size=CALIBRATION + 1500)
    values[CALIBRATION + 1000 :] += 2
    alarm = examined(values).alarm
    assert alarm is not None
    assert (alarm.test, 1000 < alarm.image < 1060) == ("martingale", True)
    for images in (alarm.image, alarm.image + 1, 1200):
        assert examined(values[: CALIBRATION + images]).alarm == alarm
    assert examined(values[: CALIBRATION + alarm.image - 1]).alarm is None


def test_a_slight_shift_from_the_first_image_is_found_by_the_windows() -> None:
    rng = np.random.default_rng(1)
    scores, calibration = rng.normal(0.8, 1, 5 * WINDOW), rng.normal(size=40)
    tests = run_stream_tests(scores, calibration, probability=0.01, seed=0)
    assert tests.alarm == Alarm("windows", WINDOW)
    assert (tests.capital < tests.capital_level).all()


def test_no_image_and_equal_images_do_not_alarm() -> None:
    assert examined(np.zeros(CALIBRATION)).alarm is None
    assert examined(np.zeros(CALIBRATION + 2000)).alarm is None
