"""Maps and masks at the size of an image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillwatch.combination import LevelMaps
from stillwatch.inference.resizing import (
    bilinear,
    resize_map,
    resize_mask_keeping_rejection,
)

MAPS = st.builds(
    lambda seed, shape, levels: (
        np.random.default_rng(seed).integers(0, levels, shape).astype(np.float32) / 7
    ),
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.sampled_from([1, 2, 1000]),
)
SIDE = st.integers(1, 60)


@settings(max_examples=200)
@given(MAPS, SIDE, SIDE)
def test_a_resized_map_crosses_the_thresholds_that_the_map_crosses(
    anomaly_map: NDArray[np.float32], height: int, width: int
) -> None:
    before = anomaly_map.copy()
    resized = resize_map(anomaly_map, height, width)
    assert (resized.shape, resized.dtype) == ((height, width), np.float32)
    assert resized.max() == anomaly_map.max()
    assert resized.min() >= anomaly_map.min()
    np.testing.assert_array_equal(anomaly_map, before)


@settings(max_examples=200)
@given(MAPS, st.floats(0, 1), SIDE, SIDE)
def test_a_resized_mask_has_a_pixel_exactly_when_the_mask_has(
    anomaly_map: NDArray[np.float32], threshold: float, height: int, width: int
) -> None:
    mask = anomaly_map > threshold
    resized = resize_mask_keeping_rejection(mask, height, width)
    assert (resized.shape, resized.dtype) == ((height, width), np.bool_)
    assert resized.any() == mask.any()


def test_the_peak_stays_where_it_was() -> None:
    anomaly_map = np.zeros((16, 16), np.float32)
    anomaly_map[12, 3] = 1
    for height, width in ((4, 4), (64, 32), (5, 50)):
        rows, columns = np.nonzero(resize_map(anomaly_map, height, width) == 1)
        assert abs((rows + 0.5) / height - 12.5 / 16).max() <= 1 / min(height, 16)
        assert abs((columns + 0.5) / width - 3.5 / 16).max() <= 1 / min(width, 16)


def test_bilinear_is_half_pixel_and_keeps_its_edges() -> None:
    row = np.array([[0, 1]], np.float32)
    np.testing.assert_allclose(bilinear(row, 1, 4), [[0, 0.25, 0.75, 1]])
    np.testing.assert_allclose(bilinear(np.array([[0, 1, 4, 9]], np.float32), 1, 2), [[0.5, 6.5]])
    np.testing.assert_array_equal(bilinear(row, 1, 2), row)


@pytest.mark.parametrize(("height", "width"), [(13, 9), (1, 50), (50, 1), (64, 64)])
@pytest.mark.parametrize("grid", [1, 2, 4])
def test_a_map_lies_where_its_image_is(height: int, width: int, grid: int) -> None:
    """A map of the columns' positions, at the image's own size and at three times that."""
    rows, columns = -(-height // grid), -(-width // grid)
    ramp = (np.arange(columns, dtype=np.float32) + 0.5) * grid
    anomaly_map = np.broadcast_to(ramp, (rows, columns)).astype(np.float32)
    extent = LevelMaps((anomaly_map,), (grid,), height, width).extent
    for factor in (1, 3):
        found = bilinear(anomaly_map, factor * height, factor * width, extent)
        assert found.shape == (factor * height, factor * width)
        expected = (np.arange(factor * width) + 0.5) / factor
        inner = (expected > grid / 2) & (expected < columns * grid - grid / 2)
        np.testing.assert_allclose(found[0, inner], expected[inner], rtol=1e-4, atol=1e-3)


@given(MAPS, SIDE, SIDE, st.sampled_from([1, 2, 4]), st.data())
def test_a_map_that_reaches_beyond_its_image_keeps_its_maximum(
    anomaly_map: NDArray[np.float32], height: int, width: int, grid: int, data: st.DataObject
) -> None:
    rows, columns = anomaly_map.shape
    scaled = (
        rows * grid - data.draw(st.integers(0, grid - 1)),
        columns * grid - data.draw(st.integers(0, grid - 1)),
    )
    extent = LevelMaps((anomaly_map,), (grid,), *scaled).extent
    assert resize_map(anomaly_map, height, width, extent).max() == anomaly_map.max()
    mask = anomaly_map > 0.5
    assert resize_mask_keeping_rejection(mask, height, width, extent).any() == mask.any()
