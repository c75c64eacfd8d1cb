import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from stillwatch.drift.windows import WINDOW, window_levels, window_p_values


@pytest.mark.parametrize("ties", [False, True])
def test_p_values_of_exchangeable_scores_are_exact(ties: bool) -> None:
    rng = np.random.default_rng(0)
    repeats = 400
    draws = rng.random((repeats, 20 + WINDOW))
    if ties:
        draws = np.floor(4 * draws)
    p = np.array(
        [window_p_values(row[20:], row[:20], seed=seed)[0] for seed, row in enumerate(draws)]
    )
    for level in (0.01, 0.1, 0.5):
        below = np.count_nonzero(p <= level)
        # The steps between possible p-values are far smaller than one in a thousand.
        assert binom.ppf(0.0001, repeats, level - 0.001) <= below
        assert below <= binom.ppf(0.9999, repeats, level)


@given(st.integers(0, 10_000), st.floats(1e-6, 0.5))
def test_all_levels_together_stay_below_the_budget(count: int, probability: float) -> None:
    levels = window_levels(count, probability)
    assert levels.sum() < probability
    assert (np.diff(levels) < 0).all()


def test_only_whole_windows_are_tested_and_later_ones_change_nothing() -> None:
    rng = np.random.default_rng(0)
    scores, calibration = rng.random(3 * WINDOW + 1), rng.random(20)
    p = window_p_values(scores, calibration, seed=5)
    assert p.shape == (3,)
    np.testing.assert_array_equal(window_p_values(scores[:-2], calibration, seed=5), p[:2])
    assert window_p_values(scores[: WINDOW - 1], calibration, seed=5).shape == (0,)


@pytest.mark.parametrize("shift", [-1.5, 1.5])
def test_a_stream_that_never_was_like_calibration_is_found_in_its_first_window(
    shift: float,
) -> None:
    rng = np.random.default_rng(0)
    p = window_p_values(rng.normal(shift, 1, WINDOW), rng.normal(size=20), seed=0)
    assert p <= window_levels(1, 0.01)
