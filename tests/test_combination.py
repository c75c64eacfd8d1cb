"""The anomaly map of an image from its level maps, against the formulas written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from stillwatch.combination import (
    LEAST,
    Combination,
    Level,
    LevelMaps,
    combine,
    level_on_grid,
    median,
    normalised,
    smoothed,
    standardised_by_normals,
)
from stillwatch.position_statistics import PositionStatistics

SIDE = st.integers(1, 70)


def levels_of(height: int, width: int, strides: tuple[int, ...], seed: int = 0) -> LevelMaps:
    random = np.random.default_rng(seed)
    maps = tuple(
        random.random((-(-height // stride), -(-width // stride))).astype(np.float32)
        for stride in strides
    )
    return LevelMaps(maps, strides, height, width)


def enlarged(values: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Bilinear, from the first value to the last along both sides."""
    stretched = values.astype(np.float64)
    for axis, length in enumerate(shape):
        count = stretched.shape[axis]
        places = np.linspace(0, count - 1, length)
        stretched = np.apply_along_axis(
            lambda row, at=places, n=count: np.interp(at, np.arange(n), row), axis, stretched
        )
    return stretched


@pytest.mark.parametrize("fusion", ["sum", "product"])
@pytest.mark.parametrize("sigma", [None, 4.0, 6.5])
@given(height=SIDE, width=SIDE, seed=st.integers(0, 99))
def test_a_map_is_what_the_formula_says(
    fusion: str, sigma: float | None, height: int, width: int, seed: int
) -> None:
    levels = levels_of(height, width, (4, 8, 16), seed)
    combination = Combination.model_validate(
        {
            "levels": [
                {"offset": 0.25, "divisor": 2.0},
                {"largest_median": 0.4},
                {"offset": -0.5, "divisor": 0.1, "largest_median": 0.0},
            ],
            "fusion": fusion,
            "sigma": sigma,
        }
    )
    shape = -(-height // 4), -(-width // 4)
    first, second, third = (one.astype(np.float64) for one in levels.maps)
    middle = np.sort(second, axis=None)[(second.size - 1) // 2]
    parts = [
        (first - 0.25) / 2,
        second / np.sqrt(max(1e-6, min(middle, 0.4))),
        (third + 0.5) / (0.1 * np.sqrt(1e-6)),
    ]
    parts = [enlarged(part, shape) for part in parts]
    if sigma is not None:
        parts = [gaussian_filter(part, sigma / 4, mode="reflect", truncate=4) for part in parts]
    expected = np.sum(parts, axis=0) if fusion == "sum" else np.prod(parts, axis=0)
    found = combine(levels, combination)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("strides", "grid"), [((4, 16), 4), ((32,), 4), ((2, 8), 2), ((1,), 1)])
@given(height=SIDE, width=SIDE)
def test_the_map_has_a_value_for_each_position_of_its_grid(
    strides: tuple[int, ...], grid: int, height: int, width: int
) -> None:
    levels = levels_of(height, width, strides)
    found = combine(levels, Combination(levels=(Level(),) * len(strides), sigma=4.0))
    rows, columns = found.shape
    assert (rows, columns) == (-(-height // grid), -(-width // grid))
    assert levels.extent == (rows * grid / height, columns * grid / width)


def test_one_level_is_the_map() -> None:
    levels = levels_of(40, 50, (4,))
    np.testing.assert_array_equal(combine(levels, Combination(levels=(Level(),))), levels.maps[0])


def test_the_gaussian_is_in_pixels_of_the_image() -> None:
    values = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    for grid in (1, 2, 4):
        levels = LevelMaps((values,), (grid,), 40 * grid, 40 * grid)
        found = combine(levels, Combination(levels=(Level(),), sigma=8.0))
        np.testing.assert_array_equal(found, smoothed(values, 8 / grid))


@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)), st.sampled_from([0.3, 1.0, 2.25, 4.0, 9.0])
)
def test_the_gaussian_is_scipys(shape: tuple[int, int], sigma: float) -> None:
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    expected = gaussian_filter(values.astype(np.float64), sigma, mode="reflect", truncate=4)
    np.testing.assert_allclose(smoothed(values, sigma), expected, rtol=1e-5)


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=30))
def test_the_median_is_the_lower_of_two(values: list[float]) -> None:
    level = np.array(values, np.float32)[None]
    assert median(level) == sorted(values)[(len(values) - 1) // 2]


@pytest.mark.parametrize(("middle", "divisor"), [(0.0, LEAST), (0.09, 0.09), (0.36, 0.25)])
def test_the_median_that_divides_is_bounded_on_both_sides(middle: float, divisor: float) -> None:
    level = np.full((5, 5), middle, np.float32)
    level[0, 0] = 1
    found = normalised(level, Level(largest_median=0.25))
    np.testing.assert_allclose(found[0, 0], 1 / np.sqrt(divisor), rtol=1e-5)


def test_levels_are_held_against_normals_at_the_same_place() -> None:
    normals = [levels_of(64, 96, (4, 8), seed) for seed in range(5)]
    combination = standardised_by_normals(normals, sigma=6.0, weights=(1, 3))
    new = levels_of(64, 96, (4, 8), seed=9)
    expected = np.zeros((16, 24))
    for number, weight in ((0, 1), (1, 3)):
        level = Level(largest_median=max(median(one.maps[number]) for one in normals))
        maps = [level_on_grid(one, number, level, 6.0) for one in (*normals, new)]
        expected += weight * PositionStatistics.of(maps[:-1]).standardised(maps[-1])
    np.testing.assert_allclose(combine(new, combination), expected, rtol=1e-5)
    assert (combination.fusion, combination.sigma) == ("sum", 6.0)


def test_an_image_is_forgiven_no_more_than_the_worst_normal() -> None:
    """4 everywhere, where the largest median of the normals is 0.25, is divided by 0.5."""
    normals = [LevelMaps((np.full((8, 8), value, np.float32),), (4,), 32, 32) for value in (1, 4)]
    (level,) = standardised_by_normals([normals[0]], sigma=4.0).levels
    assert level.largest_median == 1
    found = level_on_grid(normals[1], 0, level.model_copy(update={"positions": None}), 4.0)
    np.testing.assert_allclose(found, 4, rtol=1e-5)


def test_a_level_that_is_not_combined_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 levels, 1 are combined"):
        combine(levels_of(32, 32, (4, 8)), Combination(levels=(Level(),)))


@pytest.mark.parametrize(
    "values",
    [
        {"levels": []},
        {"levels": [{"divisor": 0}]},
        {"levels": [{"offset": float("nan")}]},
        {"levels": [{"largest_median": -1}]},
        {"levels": [{}], "sigma": 0},
        {"levels": [{}], "fusion": "maximum"},
    ],
)
def test_an_impossible_combination_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="Combination"):
        Combination.model_validate(values)
