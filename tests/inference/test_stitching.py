"""Level maps of images of any shape, from the level maps of their tiles."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_bundles import brightness
from numpy.typing import NDArray

from stillwatch.combination import LevelMaps
from stillwatch.errors import DetectorError
from stillwatch.geometry import STRIDE, Geometry, Shape, fitted, positions
from stillwatch.images.decode import Pixels
from stillwatch.inference.stitching import Scorer, blending_weights, level_maps

STRIDES = (4, 8, 32)
SIDE = st.integers(1, 150)
SHAPE = st.tuples(SIDE, SIDE)
TILE = st.sampled_from([32, 64, 96])
OVERLAP = st.integers(0, 95)


def tiles_of(height: int, width: int, overlap: int) -> Geometry:
    return Geometry(scale=1.0, box=None, tile=(height, width), overlap=overlap)


def means(tiles: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """A local scorer: each value depends on its own pixels alone."""
    red = tiles[..., 0].astype(np.float32)
    count, height, width = red.shape
    return [
        red.reshape(count, height // s, s, width // s, s).mean(axis=(2, 4), dtype=np.float32)
        for s in STRIDES
    ]


def image_of(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def stitched(
    scorer: Scorer, geometry: Geometry, images: Sequence[Pixels], batch_size: int = 4
) -> list[LevelMaps]:
    return list(level_maps(scorer, geometry, images, batch_size))


def padded(image: Pixels) -> Pixels:
    """To multiples of 32, by the edge."""
    below, right = (-side % STRIDE for side in image.shape[:2])
    return np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")


def shapes_at(height: int, width: int) -> list[Shape]:
    return [(-(-height // stride), -(-width // stride)) for stride in STRIDES]


@given(st.integers(1, 2000), TILE, OVERLAP, st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_weights_are_positive_and_sum_to_1(
    length: int, tile: int, overlap: int, stride: int
) -> None:
    starts = positions(length, tile, overlap)
    weights = blending_weights(starts, tile, stride)
    assert weights.shape == (len(starts), tile // stride)
    assert weights.min() > 0
    total = np.zeros((starts[-1] + tile) // stride)
    for start, row in zip(starts, weights, strict=True):
        total[start // stride : (start + tile) // stride] += row
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_weights_fall_towards_an_edge_that_a_neighbour_covers() -> None:
    first, second = blending_weights((0, 64), 96, 8)
    np.testing.assert_array_equal(first[:8], 1)
    np.testing.assert_allclose(first[8:], [0.875, 0.625, 0.375, 0.125])
    np.testing.assert_array_equal(second, first[::-1])


@given(st.integers(1, 96), st.integers(1, 64))
def test_a_tiling_of_one_is_the_scorers_answer_to_the_last_bit(height: int, width: int) -> None:
    image = image_of(height, width)
    geometry = tiles_of(96, 64, 32)
    (found,) = stitched(means, geometry, [image])
    (tile,) = geometry.tiles(height, width)
    expected = means(geometry.cut(image, tile)[None])
    for level, (whole,), shape in zip(found.maps, expected, shapes_at(height, width), strict=True):
        np.testing.assert_array_equal(level, whole[: shape[0], : shape[1]], strict=True)
    assert (found.strides, found.height, found.width) == (STRIDES, height, width)


@given(SHAPE, TILE, TILE, OVERLAP)
def test_a_local_scorer_gives_the_maps_of_the_whole_image(
    shape: Shape, height: int, width: int, overlap: int
) -> None:
    image = image_of(*shape)
    (found,) = stitched(means, tiles_of(height, width, overlap), [image])
    whole = means(padded(image)[None])
    for level, expected, (rows, columns) in zip(found.maps, whole, shapes_at(*shape), strict=True):
        assert level.shape == (rows, columns)
        np.testing.assert_allclose(level, expected[0, :rows, :columns], rtol=1e-5)


@given(SHAPE, TILE, TILE, OVERLAP)
def test_what_is_said_of_the_padding_reaches_no_map(
    shape: Shape, height: int, width: int, overlap: int
) -> None:
    """A scorer that finds a defect wherever there is no image."""
    image = image_of(*shape)
    image[..., 1] = 0  # padding repeats it, so that the scorer below cannot tell padding by it
    geometry = tiles_of(height, width, overlap)
    places = iter(geometry.tiles(*shape))

    def alarmed(tiles: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        levels = means(tiles)
        for number, place in zip(range(len(tiles)), places, strict=False):
            for level, stride in zip(levels, STRIDES, strict=True):
                level[number, -(-(shape[0] - place.top) // stride) :] = 1e9
                level[number, :, -(-(shape[1] - place.left) // stride) :] = 1e9
        return levels

    (found,) = stitched(alarmed, geometry, [image], batch_size=1)
    (expected,) = stitched(means, geometry, [image])
    for level, plain in zip(found.maps, expected.maps, strict=True):
        np.testing.assert_array_equal(level, plain)


@given(
    st.lists(SHAPE, min_size=1, max_size=5), TILE, TILE, OVERLAP, st.integers(1, 9), st.booleans()
)
def test_neither_batches_nor_other_images_matter(
    shapes: list[Shape], height: int, width: int, overlap: int, batch_size: int, turned: bool
) -> None:
    geometry = tiles_of(height, width, overlap)
    images = [image_of(*shape, seed) for seed, shape in enumerate(shapes)]
    together = stitched(means, geometry, images, batch_size)
    assert [(one.height, one.width) for one in together] == shapes
    for found, image in zip(together, images, strict=True):
        (alone,) = stitched(means, geometry, [image])
        for level, expected in zip(found.maps, alone.maps, strict=True):
            np.testing.assert_array_equal(level, expected)


@pytest.mark.parametrize("shape", [(2, 100), (100, 2), (4, 200)])
def test_an_aspect_ratio_of_50_to_1(shape: Shape) -> None:
    for geometry in (fitted([shape], 100), tiles_of(32, 32, 0), tiles_of(64, 64, 32)):
        scaled = geometry.scaled_shape(*shape)
        (found,) = stitched(means, geometry, [image_of(*scaled)])
        assert [level.shape for level in found.maps] == shapes_at(*scaled)


def test_one_batch_is_in_memory_at_a_time() -> None:
    sizes: list[int] = []
    taken: list[int] = []

    def counting(tiles: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        sizes.append(len(tiles))
        return brightness(tiles)

    def images() -> Sequence[Pixels]:
        for number in range(4):
            taken.append(number)
            yield image_of(64, 96)

    # Six tiles an image.
    stream = level_maps(counting, tiles_of(32, 32, 0), images(), batch_size=4)
    assert (taken, sizes) == ([], [])
    next(stream)
    assert (taken, sizes) == ([0, 1], [4, 4])
    assert len(list(stream)) == 3
    assert sizes == [4] * 6


@pytest.mark.parametrize(
    ("side", "expected"), [(32, [4, 1]), (256, [4, 1]), (320, [2, 2, 1]), (1024, [1] * 5)]
)
def test_a_batch_of_large_tiles_has_no_more_pixels(side: int, expected: list[int]) -> None:
    sizes: list[int] = []

    def counting(tiles: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        sizes.append(len(tiles))
        return brightness(tiles)

    stitched(counting, tiles_of(side, side, 0), [image_of(32, 32)] * 5)
    assert sizes == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_no_number_is_refused(bad: float) -> None:
    def broken(tiles: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        (level,) = brightness(tiles)
        level[0, 0, 0] = bad
        return [level]

    with pytest.raises(DetectorError, match="not finite"):
        stitched(broken, tiles_of(32, 32, 0), [image_of(32, 32)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda level: level.astype(np.float64), "float64"),
        (lambda level: level[0], r"\(32, 64\)"),
        (lambda level: level[:, :20], r"\(1, 20, 64\)"),
        (lambda level: level[:, ::2], r"\(1, 16, 64\)"),
        (lambda level: np.concatenate([level, level]), r"\(2, 32, 64\)"),
    ],
)
def test_a_scorer_that_breaks_its_contract_is_refused(change, words: str) -> None:
    def broken(tiles: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        return [change(brightness(tiles)[0])]

    with pytest.raises(DetectorError, match=rf"{words}.*float32 \(B, H / stride, W / stride\)"):
        stitched(broken, tiles_of(32, 64, 0), [image_of(32, 64)])
