import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from stillwatch.flows.serving.answers import run_lengths


def decoded(counts: list[int], height: int, width: int) -> NDArray[np.bool_]:
    """As pycocotools reads it: runs of 0 and 1 in turn, column by column."""
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_the_mask_comes_back(mask: NDArray[np.bool_]) -> None:
    counts = run_lengths(mask)
    assert sum(counts) == mask.size
    assert all(count > 0 for count in counts[1:])
    np.testing.assert_array_equal(decoded(counts, *mask.shape), mask)


@given(st.integers(1, 9), st.integers(1, 9))
def test_columns_come_first_and_unset_pixels_begin(height: int, width: int) -> None:
    mask = np.zeros((height, width), np.bool_)
    assert run_lengths(mask) == [height * width]
    mask[:, 0] = True
    rest = [height * (width - 1)] if width > 1 else []
    assert run_lengths(mask) == [0, height, *rest]
