"""Scale, shape and position of tiles."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stillwatch.geometry import STRIDE, Geometry, fitted, positions, tiled

SIDE = st.integers(1, 6000)
SHAPE = st.tuples(SIDE, SIDE)
SHAPES = st.lists(SHAPE, min_size=1, max_size=5)
TILE = st.integers(1, 8).map(lambda count: count * STRIDE)


def within_half_a_pixel(side: int, scaled: int, factor: float) -> bool:
    return abs(side * factor - scaled) <= 0.5 + 1e-9 * side * factor


@given(SHAPES, SHAPE, st.integers(32, 2048))
def test_a_fitted_image_keeps_its_aspect_ratio(
    shapes: list[tuple[int, int]], shape: tuple[int, int], size: int
) -> None:
    geometry = fitted(shapes, size)
    assert geometry.box is not None
    assert max(geometry.box) == size
    scaled = geometry.scaled_shape(*shape)
    assert all(1 <= a <= b for a, b in zip(scaled, geometry.box, strict=True))
    assert any(a == b for a, b in zip(scaled, geometry.box, strict=True))
    assume(1 not in scaled)
    # One factor gives both sides.
    low, high = (
        [(side + half) / length for side, length in zip(scaled, shape, strict=True)]
        for half in (-0.5, 0.5)
    )
    assert max(low) <= min(high) * (1 + 1e-9)


@given(SHAPES, SHAPE, st.integers(32, 2048))
def test_a_fitted_image_is_scaled_once(
    shapes: list[tuple[int, int]], shape: tuple[int, int], size: int
) -> None:
    geometry = fitted(shapes, size)
    scaled = geometry.scaled_shape(*shape)
    assert geometry.scaled_shape(*scaled) == scaled


@given(SHAPE, st.floats(0.01, 4))
def test_a_factor_scales_both_sides(shape: tuple[int, int], factor: float) -> None:
    geometry = tiled([shape], factor, 256, 32)
    for side, scaled in zip(shape, geometry.scaled_shape(*shape), strict=True):
        assert scaled == 1 or within_half_a_pixel(side, scaled, factor)


@pytest.mark.parametrize(
    ("shapes", "box"),
    [
        ([(500, 1250)], (102, 256)),
        ([(1250, 500)], (256, 102)),
        ([(300, 300), (100, 200), (100, 400)], (128, 256)),
        ([(10, 500)], (5, 256)),
        ([(1, 1000)], (1, 256)),
    ],
)
def test_the_median_aspect_ratio_decides_the_network_shape(
    shapes: list[tuple[int, int]], box: tuple[int, int]
) -> None:
    geometry = fitted(shapes, 256)
    assert geometry.box == box
    assert geometry.tile == tuple(-(-side // 32) * 32 for side in box)
    assert geometry.sigma == 4


def test_the_gaussian_grows_with_a_fitted_image_and_not_with_tiles() -> None:
    assert fitted([(100, 300)], 512).sigma == 8
    assert tiled([(100, 300)], 0.5, 512, 32).sigma == 4


@given(SHAPES, st.floats(0.05, 4), TILE, st.data())
def test_tiles_are_no_larger_than_the_images_need(
    shapes: list[tuple[int, int]], factor: float, size: int, data: st.DataObject
) -> None:
    geometry = tiled(shapes, factor, size, data.draw(st.integers(0, size - 1)))
    assert geometry.box is None
    assert all(side % STRIDE == 0 and side <= size for side in geometry.tile)
    scaled = [geometry.scaled_shape(*shape) for shape in shapes]
    for sides, tile in zip(zip(*scaled, strict=True), geometry.tile, strict=True):
        assert tile == size or max(sides) <= tile < max(sides) + STRIDE


def test_a_few_small_images_do_not_make_the_tiles_of_large_images_small() -> None:
    geometry = tiled([(40, 40)] * 3 + [(2000, 3000)] * 2, 1.0, 256, 32)
    assert geometry.tile == (256, 256)
    assert len(geometry.tiles(40, 40)) == 1


@given(SIDE, TILE, st.data())
def test_tiles_cover_a_side_and_share_their_overlap(
    length: int, tile: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    starts = positions(length, tile, overlap)
    assert starts[0] == 0
    assert all(start % STRIDE == 0 for start in starts)
    assert sorted(set(starts)) == list(starts)
    # The last tile ends at the image's end; a single one may reach beyond it.
    end = starts[-1] + tile
    assert length <= end
    assert end < length + STRIDE or len(starts) == 1
    shared = [before + tile - after for before, after in pairwise(starts)]
    assert all(part >= overlap // STRIDE * STRIDE for part in shared)
    # No more tiles than the overlap asks for.
    assert all(part < overlap + STRIDE for part in shared[:-1] if tile - overlap >= STRIDE)


def test_narrow_images_share_the_overlap_along_their_length() -> None:
    geometry = tiled([(30, 1500)], 1.0, 256, 64)
    assert geometry.tile == (32, 256)
    rows, columns = geometry.starts(30, 1500)
    assert rows == (0,)
    assert columns[:3] == (0, 192, 384)


@given(st.tuples(st.integers(1, 200), st.integers(1, 200)), TILE, TILE, st.integers(0, 31))
def test_the_tiles_hold_every_pixel_where_it_is(
    shape: tuple[int, int], height: int, width: int, overlap: int
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    geometry = Geometry(scale=1.0, box=None, tile=(height, width), overlap=overlap)
    again = np.zeros((shape[0] + height, shape[1] + width, 3), np.uint8)
    for tile in geometry.tiles(*shape):
        cut = geometry.cut(image, tile)
        assert cut.shape == (height, width, 3)
        again[tile.top : tile.top + height, tile.left : tile.left + width] = cut
    np.testing.assert_array_equal(again[: shape[0], : shape[1]], image)


def test_beyond_the_image_its_edge_is_repeated() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    geometry = fitted([(2, 3)], 32)
    (tile,) = geometry.tiles(2, 3)
    cut = geometry.cut(image, tile)
    np.testing.assert_array_equal(cut[:2, :3], image)
    np.testing.assert_array_equal(cut[2:, :3], np.broadcast_to(image[1:], (30, 3, 3)))
    np.testing.assert_array_equal(cut[:, 3:], np.repeat(cut[:, 2:3], 29, axis=1))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tile": (32, 100)}, "multiples of 32"),
        ({"tile": (0, 32)}, "multiples of 32"),
        ({"box": (32, 32)}, "either a scale or a box"),
        ({"scale": None}, "either a scale or a box"),
        ({"overlap": -1}, "greater than or equal to 0"),
    ],
)
def test_an_impossible_geometry_is_refused(changes: dict[str, object], sentence: str) -> None:
    values = {"scale": 1.0, "box": None, "tile": (32, 64), "overlap": 0} | changes
    with pytest.raises(ValueError, match=sentence):
        Geometry.model_validate(values)


def test_a_geometry_is_written_width_by_height() -> None:
    assert str(fitted([(500, 1250)], 256)) == "256×102"
    assert str(tiled([(500, 1250)], 0.5, 256, 32)) == "×0.5 in tiles of 256×256"
