"""The tiles of a training: which are drawn, their pixels, and the teacher's features of them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from toys import SIDE, toy_normals, toy_teacher

from stillwatch.geometry import Geometry, fitted
from stillwatch.images.decode import Pixels
from stillwatch.teachers.networks import Teacher
from stillwatch.training.data import TilePool, TileSet, TrainingImages, evenly_spread

CPU = torch.device("cpu")
TILES = Geometry(scale=1.0, box=None, tile=(32, 64), overlap=0)


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def pool_of(
    images: list[Pixels], geometry: Geometry = TILES, teacher: Teacher | None = None
) -> TilePool:
    return TilePool(TileSet(images, geometry), teacher or toy_teacher(), CPU)


def counted(count: int) -> TilePool:
    """A pool of so many tiles."""
    return pool_of([np.zeros((32, 64 * count, 3), np.uint8)])


def test_the_tiles_of_images_of_unequal_shapes() -> None:
    images = [noise(32, 100), noise(70, 20, seed=1)]
    tiles = TileSet(images, TILES)
    assert len(tiles) == 2 + 3
    stacked = tiles.stacked(range(5))
    assert stacked.shape == (5, 32, 64, 3)
    np.testing.assert_array_equal(stacked[0], images[0][:, :64])
    np.testing.assert_array_equal(stacked[1][:, :36], images[0][:, 64:])
    np.testing.assert_array_equal(stacked[3][:, :20], images[1][32:64])
    np.testing.assert_array_equal(tiles.stacked([3, 0]), stacked[[3, 0]])


def test_positions_that_show_padding_alone_are_not_covered() -> None:
    tiles = TileSet([noise(32, 100), noise(17, 64)], TILES)
    expected = np.zeros((3, 4, 8), np.bool_)
    expected[0] = True
    expected[1, :, :5] = True  # 36 of 64 columns
    expected[2, :3] = True  # 17 of 32 rows
    np.testing.assert_array_equal(tiles.covered([0, 1, 2], 8), expected)


def test_the_digest_tells_pixels_shapes_and_tiles_apart() -> None:
    image = noise(64, 64)
    other = image.copy()
    other[5, 5, 0] ^= 1
    sets = [
        TileSet([image], TILES),
        TileSet([other], TILES),
        TileSet([image.reshape(32, 128, 3)], TILES),
        TileSet([image], TILES.model_copy(update={"overlap": 32})),
        TileSet([image, image], TILES),
    ]
    assert len({one.digest for one in sets}) == len(sets)
    assert TileSet([image.copy()], TILES).digest == sets[0].digest


@given(st.integers(1, 30), st.data())
def test_every_tile_is_drawn_once_a_pass(tiles: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, tiles))
    pool = counted(tiles)
    epochs = [pool.drawn(epoch, count, "seed").tolist() for epoch in range(2 * tiles)]
    assert {len(epoch) for epoch in epochs} == {count}
    drawn = [row for epoch in epochs for row in epoch]
    for start in range(0, len(drawn), tiles):
        assert sorted(drawn[start : start + tiles]) == list(range(tiles))


def test_the_order_depends_on_the_seed_and_the_epoch_alone() -> None:
    pool, same = counted(20), counted(20)
    epochs = [pool.drawn(epoch, 12, "a").tolist() for epoch in range(4)]
    torch.manual_seed(1)
    assert same.drawn(3, 12, "a").tolist() == epochs[3]
    assert pool.drawn(3, 12, "b").tolist() != epochs[3]
    assert pool.drawn(0, 20, "a").tolist() != pool.drawn(1, 20, "a").tolist()


@given(st.integers(1, 50), st.integers(1, 60))
def test_some_tiles_are_spread_over_all(tiles: int, most: int) -> None:
    rows = counted(tiles).spread(most).tolist()
    assert len(rows) == len(set(rows)) == min(tiles, most)
    assert rows == sorted(rows)
    gaps = np.diff([*rows, tiles])
    assert gaps.max() - gaps.min() <= 1


def test_tiles_are_numbers_from_zero_to_one_in_channels_last_memory() -> None:
    images = [noise(32, 64, seed) for seed in range(3)]
    (batch,) = pool_of(images).batches(3, torch.tensor([2, 0]))
    expected = np.stack([images[2], images[0]]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    np.testing.assert_array_equal(batch.images.numpy(), expected)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def normals(count: int) -> tuple[NDArray[np.uint8], Geometry]:
    return toy_normals(count), fitted([(SIDE, SIDE)], SIDE)


def test_features_are_the_teachers_and_computed_once() -> None:
    teacher = toy_teacher()
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    images, geometry = normals(5)
    pool = pool_of(list(images), geometry, teacher)
    every = torch.arange(5)
    first = [list(batch.features) for batch in pool.batches(2, every)]
    spent = len(calls)
    second = [list(batch.features) for batch in pool.batches(2, every)]
    assert len(calls) == spent
    (whole,) = pool.batches(5, every)
    expected = teacher(whole.images)
    for level in range(3):
        kept = torch.cat([batch[level] for batch in first])
        assert torch.equal(kept, torch.cat([batch[level] for batch in second]))
        torch.testing.assert_close(kept, expected[level], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(64, 64), (32, 64), (64, 32)])
def test_photographs_have_twice_the_side_of_a_tile(shape: tuple[int, int]) -> None:
    geometry = Geometry(scale=1.0, box=None, tile=shape, overlap=0)
    images = [noise(*shape, seed) for seed in range(4)]

    def sides(photographs: NDArray[np.uint8] | None) -> set[tuple[int, ...]]:
        made = TrainingImages(images, images[:1], photographs, geometry, toy_teacher(), CPU)
        return {tuple(one.images(torch.tensor([0])).shape[2:]) for one in made.photographs}

    twice = 2 * max(shape)
    photographs = np.zeros((5, twice, twice, 3), np.uint8)
    assert sides(photographs) == {(twice, twice)}
    assert sides(None) == {(2 * shape[0], 2 * shape[1])}


def test_images_that_have_too_many_pixels_together_are_left_out_evenly() -> None:
    images = [noise(2, side) for side in (50, 10, 10, 10, 10, 10)]
    for most, rows in ((600, range(6)), (599, range(5)), (300, (0, 2, 4)), (99, (0,))):
        assert [id(one) for one in evenly_spread(images, most)] == [id(images[r]) for r in rows]
