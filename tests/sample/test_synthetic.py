import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillwatch.errors import LayoutError
from stillwatch.sample.synthetic import (
    VISIBLE_LEVELS,
    VISIBLE_SHARE,
    make_synthetic_anomalies,
)


def normals(count: int, size: int, surface: str) -> NDArray[np.uint8]:
    rng = np.random.default_rng(7)
    if surface == "plain":
        levels = rng.integers(0, 256, (count, 1, 1, 3))
        return np.broadcast_to(levels, (count, size, size, 3)).astype(np.uint8)
    if surface == "noise":
        return rng.integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    ramp = np.linspace(60, 180, size)[None, :, None, None] + rng.normal(
        0, 6, (count, size, size, 3)
    )
    return ramp.astype(np.uint8)


def source_of(
    anomaly: NDArray[np.uint8], mask: NDArray[np.bool_], images: NDArray[np.uint8]
) -> int:
    equal = [int(np.array_equal(anomaly[~mask], image[~mask])) for image in images]
    assert sum(equal) == 1
    return equal.index(1)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([32, 50, 96]),
    count=st.integers(1, 9),
    surface=st.sampled_from(["plain", "noise", "ramp"]),
)
def test_anomalies_differ_inside_their_mask_only(
    seed: int, size: int, count: int, surface: str
) -> None:
    images = normals(4, size, surface)
    made = list(make_synthetic_anomalies(images, count, seed))
    assert [one.kind for one in made] == [("cutpaste", "perlin")[n % 2] for n in range(count)]
    for one in made:
        anomaly, mask, source = one.image, one.mask, one.source
        assert (anomaly.dtype, anomaly.shape) == (np.uint8, images[source].shape)
        assert (mask.dtype, mask.shape) == (bool, anomaly.shape[:2])
        assert 0 < mask.mean() < 0.3
        assert source == source_of(anomaly, mask, images)
        normal = images[source]
        difference = np.abs(anomaly.astype(int) - normal).max(axis=2)
        assert (difference[mask] >= VISIBLE_LEVELS).mean() >= VISIBLE_SHARE


def test_normals_of_unequal_shapes_make_anomalies_of_theirs() -> None:
    random = np.random.default_rng(0)
    shapes = [(40, 100), (12, 300), (64, 64), (90, 33)]
    images = [random.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in shapes]
    for one in make_synthetic_anomalies(images, 16, 0):
        assert one.mask.shape == shapes[one.source]
        np.testing.assert_array_equal(one.image[~one.mask], images[one.source][~one.mask])
        assert 0 < one.mask.mean() < 0.3


def test_an_anomaly_of_a_large_normal_lies_in_a_part_of_bounded_size() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 5000, 3)).astype(np.uint8)
    left = []
    for one in make_synthetic_anomalies([image], 8, 0):
        assert one.image.shape == image.shape
        np.testing.assert_array_equal(one.image[~one.mask], image[~one.mask])
        columns = np.flatnonzero(one.mask.any(axis=0))
        assert columns[-1] - columns[0] < 1024
        left.append(columns[0])
    assert max(left) - min(left) > 1024


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (3, 256)])
def test_a_narrow_normal_makes_visible_anomalies(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    for one in make_synthetic_anomalies([image], 100, 0):
        difference = np.abs(one.image.astype(int) - image).max(axis=2)
        assert (difference[one.mask] >= VISIBLE_LEVELS).mean() >= VISIBLE_SHARE


def test_the_seed_decides() -> None:
    images = normals(3, 64, "ramp")
    first, again, other = (list(make_synthetic_anomalies(images, 8, seed)) for seed in (5, 5, 6))
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.image, same.image)
        np.testing.assert_array_equal(one.mask, same.mask)
    assert any((one.mask != another.mask).any() for one, another in zip(first, other, strict=True))


def test_more_anomalies_keep_the_first_ones() -> None:
    images = normals(3, 64, "ramp")
    few, many = (make_synthetic_anomalies(images, count, 5) for count in (4, 10))
    for one, same in zip(few, many, strict=False):
        np.testing.assert_array_equal(one.image, same.image)


def test_every_normal_is_used_and_none_is_changed() -> None:
    images = normals(6, 64, "noise")
    kept = images.copy()
    made = make_synthetic_anomalies(images, 12, 0)
    used = [source_of(one.image, one.mask, images) for one in made]
    assert sorted(used) == sorted([*range(6)] * 2)
    np.testing.assert_array_equal(images, kept)


def test_masks_differ_in_place_and_shape() -> None:
    masks = [one.mask for one in make_synthetic_anomalies(normals(4, 96, "ramp"), 30, 0)]
    assert len({mask.tobytes() for mask in masks}) == 30
    areas = np.mean(masks, axis=(1, 2))
    assert areas.max() > 5 * areas.min()
    assert np.any(masks, axis=0).mean() > 0.5


def test_none_from_nothing() -> None:
    with pytest.raises(LayoutError, match="no normals"):
        list(make_synthetic_anomalies(np.zeros((0, 32, 32, 3), np.uint8), 4, 0))
