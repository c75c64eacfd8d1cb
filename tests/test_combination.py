"""The combination of level maps against values worked out by hand and against scipy."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from stillwatch.combination import (
    Combination,
    Level,
    LevelMaps,
    combine,
    median,
    normalised,
    on_grid,
    smoothed,
)


@pytest.mark.parametrize("shape", [(64, 64), (40, 24), (7, 5), (1, 3)])
@pytest.mark.parametrize("sigma", [1.0, 1.25, 4.0])
def test_smoothing_equals_scipy(shape: tuple[int, int], sigma: float) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = smoothed(values, sigma)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, gaussian_filter(values.astype(np.float64), sigma), atol=1e-6)


def test_median_is_the_lower_one_of_two() -> None:
    assert median(np.array([[4.0, 1.0], [3.0, 2.0]], np.float32)) == 2
    assert median(np.array([[4.0, 1.0, 3.0]], np.float32)) == 3


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (Level(), [[1.0, 4.0, 9.0]]),
        (Level(offset=1.0, divisor=2.0), [[0.0, 1.5, 4.0]]),
        (Level(divisor=0.5, largest_median=100.0), [[1.0, 4.0, 9.0]]),
        (Level(largest_median=0.25), [[2.0, 8.0, 18.0]]),
    ],
    ids=["as it is", "offset and divisor", "median of the image", "largest median"],
)
def test_level_in_its_units_by_hand(level: Level, expected: list[list[float]]) -> None:
    """(m - offset) / (divisor · sqrt(min(median, largest median))); the median is 4."""
    found = normalised(np.array([[1.0, 4.0, 9.0]], np.float32), level)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_coarse_level_is_enlarged_and_cut_to_the_image() -> None:
    """8 pixels per position to 4, in an image of 7 × 13 pixels."""
    levels = LevelMaps(maps=(), strides=(4, 8), height=7, width=13)
    found = on_grid(np.array([[0.0, 4.0]], np.float32), 8, levels)
    np.testing.assert_allclose(found, [[0, 1, 3, 4], [0, 1, 3, 4]])
    cut = on_grid(np.array([[0.0, 4.0]], np.float32), 8, LevelMaps((), (8,), 4, 9))
    np.testing.assert_allclose(cut, [[0, 1, 3]])


@pytest.mark.parametrize(("fusion", "expected"), [("sum", 5.0), ("product", 6.0)])
def test_levels_are_fused_on_the_finest_grid(fusion: str, expected: float) -> None:
    """The finest level has 2 pixels per position."""
    maps = np.full((4, 6), 2, np.float32), np.full((1, 2), 3, np.float32)
    combination = Combination.model_validate({"levels": [{}, {}], "fusion": fusion})
    found = combine(LevelMaps(maps, (2, 8), height=8, width=12), combination)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.full((4, 6), expected))


def test_sigma_is_in_pixels_of_the_image() -> None:
    spot = np.zeros((9, 9), np.float32)
    spot[4, 4] = 1
    levels = LevelMaps((spot,), (4,), height=36, width=36)
    found = combine(levels, Combination(levels=(Level(),), sigma=6.0))
    np.testing.assert_allclose(found, gaussian_filter(spot, 1.5), atol=1e-6)
