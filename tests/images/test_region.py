from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stillwatch.errors import ImageError
from stillwatch.images.region import Region, read_region


def drawn(path: Path, white: NDArray[np.bool_]) -> Path:
    Image.fromarray(white.astype(np.uint8) * 255).save(path)
    return path


@pytest.fixture
def half() -> NDArray[np.bool_]:
    counted = np.zeros((30, 40), bool)
    counted[:, :20] = True
    return counted


def read(folder: Path, *files: str) -> Region | None:
    return read_region(folder, files, max_megapixels=1.0)


def test_a_region_and_what_to_ignore_are_opposites(tmp_path: Path, half: NDArray[np.bool_]) -> None:
    drawn(tmp_path / "region.png", half)
    drawn(tmp_path / "ignore.png", ~half)
    region, ignored = read(tmp_path, "region.png"), read(tmp_path, "ignore.png")
    assert region is not None
    assert ignored is not None
    np.testing.assert_array_equal(region.counted, half)
    np.testing.assert_array_equal(ignored.counted, half)
    assert region.digest == ignored.digest
    assert region.share == 0.5
    assert read(tmp_path) is None


def test_two_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"has both region\.png and ignore\.png; keep the one"):
        read(tmp_path, "region.png", "ignore.png")


@pytest.mark.parametrize(("file", "white"), [("region.png", False), ("ignore.png", True)])
def test_a_region_in_which_nothing_counts_is_refused(
    tmp_path: Path, file: str, white: bool
) -> None:
    drawn(tmp_path / file, np.full((8, 9), white))
    with pytest.raises(ImageError, match=rf"{file}: no pixel is .*, so that no defect would count"):
        read(tmp_path, file)


@pytest.mark.parametrize(("file", "white"), [("region.png", True), ("ignore.png", False)])
def test_all_pixels_may_count(tmp_path: Path, file: str, white: bool) -> None:
    drawn(tmp_path / file, np.full((8, 9), white))
    region = read(tmp_path, file)
    assert region is not None
    assert region.share == 1


def test_a_damaged_or_too_large_file_is_refused(tmp_path: Path, half: NDArray[np.bool_]) -> None:
    (tmp_path / "ignore.png").write_text("no image", encoding="utf-8")
    with pytest.raises(ImageError, match=r"ignore\.png: not a PNG"):
        read(tmp_path, "ignore.png")
    drawn(tmp_path / "region.png", half)
    with pytest.raises(ImageError, match="megapixels"):
        read_region(tmp_path, ("region.png",), max_megapixels=0.001)


def test_a_saved_region_is_a_small_file_that_gives_it_back(tmp_path: Path) -> None:
    counted = np.random.default_rng(0).random((33, 47)) < 0.5
    region = Region(counted)
    region.save(tmp_path / "saved.png")
    with Image.open(tmp_path / "saved.png") as file:
        assert file.mode == "1"
    loaded = Region.load(tmp_path / "saved.png", max_megapixels=1.0)
    np.testing.assert_array_equal(loaded.counted, counted)
    assert loaded.digest == region.digest


def test_the_digest_tells_shapes_and_pixels_apart(half: NDArray[np.bool_]) -> None:
    other = half.copy()
    other[3, 4] = False
    regions = [Region(half), Region(other), Region(half.reshape(40, 30)), Region(half.T.copy())]
    assert len({region.digest for region in regions}) == 4


def test_an_image_of_another_size_is_refused(half: NDArray[np.bool_]) -> None:
    Region(half).require_size(30, 40, name="a.png")
    with pytest.raises(ImageError, match=r"a\.png: is 30×40 pixels, .* for images of 40×30"):
        Region(half).require_size(40, 30, name="a.png")


@given(
    seed=st.integers(0, 99),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    share=st.sampled_from([0.02, 0.5, 0.98]),
)
def test_a_region_is_resized_by_area_and_never_empty(
    seed: int, shape: tuple[int, int], rows: int, columns: int, share: float
) -> None:
    counted = np.random.default_rng(seed).random(shape) < share
    counted[0, 0] = True
    height, width = shape
    parts = np.kron(counted, np.ones((rows, columns)))
    areas = parts.reshape(rows, height, columns, width).mean(axis=(1, 3))
    resized = Region(counted).resized(rows, columns)
    assert resized.shape == (rows, columns)
    assert resized.dtype == bool
    assert resized.any()
    if rows <= height and columns <= width:
        assert resized[areas > 0.51].all()
        assert not (areas > 0.51).any() or not resized[areas < 0.49].any()


def test_a_region_of_the_size_asked_for_is_itself(half: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(Region(half).resized(30, 40), half)


def test_a_region_enlarges_to_whole_pixels(half: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(Region(half).resized(60, 80), np.kron(half, np.ones((2, 2))) > 0)
