"""Mean and deviation of the maps of normals at each place, with numbers worked out by hand."""

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillwatch.position_statistics import PositionStatistics


def encoded(*values: float) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def decoded(values: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(values), "<f4")


def row(*values: float) -> NDArray[np.float32]:
    return np.array([values], np.float32)


def test_mean_and_deviation_of_two_normals_by_hand() -> None:
    """(0, 2) and (0, 6): less their own means (-1, 1) and (-3, 3), on average (-2, 2).

    The variance over the cells is 4, the noise of a mean of two (2 + 2) / 2 / 2 = 1: three quarters
    of the pattern are left, around the mean 2 of all: (0.5, 3.5). Squared distances from there are
    (0.25, 2.25) and (0.25, 6.25), on average (0.25, 4.25) and 2.25 over the cells, which counts as
    30 normals beside two.
    """
    found = PositionStatistics.of([row(0, 2), row(0, 6)])
    assert (found.rows, found.columns) == (1, 2)
    np.testing.assert_allclose(decoded(found.means), [0.5, 3.5])
    variances = [(2 * 0.25 + 30 * 2.25) / 32, (2 * 4.25 + 30 * 2.25) / 32]
    np.testing.assert_allclose(decoded(found.deviations), np.sqrt(variances), rtol=1e-6)


def test_of_one_normal_only_mean_and_deviation_over_the_image_count() -> None:
    """Squared distances from 4 are (9, 1, 1, 9), on average 5."""
    found = PositionStatistics.of([row(1, 3, 5, 7)])
    np.testing.assert_allclose(decoded(found.means), [4] * 4)
    variances = [(9 + 30 * 5) / 31, (1 + 30 * 5) / 31]
    np.testing.assert_allclose(decoded(found.deviations)[:2], np.sqrt(variances), rtol=1e-6)


def test_what_all_normals_share_is_kept_whatever_their_light() -> None:
    """Each of three maps is 10 higher than the one before."""
    found = PositionStatistics.of([row(1, 2, 3, 4) + 10 * index for index in range(3)])
    np.testing.assert_allclose(decoded(found.means), [11, 12, 13, 14])


def test_what_no_two_normals_share_is_no_mean() -> None:
    found = PositionStatistics.of([row(*np.eye(4)[index]) for index in range(4)])
    np.testing.assert_allclose(decoded(found.means), [0.25] * 4)


def test_maps_of_other_shapes_are_averaged_in_at_most_32_cells_a_side() -> None:
    high, wide = np.zeros((64, 20), np.float32), np.zeros((48, 96), np.float32)
    high[:2] = 31
    found = PositionStatistics.of([high, wide] * 20)
    assert (found.rows, found.columns) == (32, 20)
    means = decoded(found.means).reshape(32, 20)
    np.testing.assert_allclose(means[1:], means[1, 0], atol=1e-4)
    np.testing.assert_allclose(means[0] - means[1], 31 / 2, rtol=0.05)


def test_between_the_cells_both_are_interpolated() -> None:
    statistics = PositionStatistics(
        rows=1, columns=2, means=encoded(1, 3), deviations=encoded(2, 4)
    )
    found = statistics.standardised(np.full((2, 4), 8, np.float32))
    expected = [(8 - 1) / 2, (8 - 1.5) / 2.5, (8 - 2.5) / 3.5, (8 - 3) / 4]
    np.testing.assert_allclose(found, [expected] * 2, rtol=1e-6)


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    normals=st.integers(1, 5),
    level=st.sampled_from([0.0, 1e-9, 1.0, 1e4]),
)
def test_any_finite_maps_are_standardised(
    rows: int, columns: int, normals: int, level: float
) -> None:
    random = np.random.default_rng(rows * 100 + columns)
    maps = [(level * random.random((rows, columns))).astype(np.float32) for _ in range(normals)]
    found = PositionStatistics.of(maps).standardised(maps[0])
    assert found.shape == (rows, columns)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("means", "deviations"),
    [
        (encoded(1, 2, 3), encoded(1, 1)),
        (encoded(1, float("nan")), encoded(1, 1)),
        (encoded(1, 2), encoded(1, 0)),
        (encoded(1, 2), encoded(1, float("inf"))),
        (encoded(1, 2), "AAA"),
        (encoded(1, 2), encoded(1, 2)[:-1] + "*"),
    ],
)
def test_statistics_without_their_values_are_refused(means: str, deviations: str) -> None:
    with pytest.raises(ValueError, match="PositionStatistics"):
        PositionStatistics(rows=1, columns=2, means=means, deviations=deviations)
