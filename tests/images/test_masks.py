from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage

from stillwatch.errors import ImageError
from stillwatch.images.masks import (
    doubt_about,
    load_mask,
    read_mask,
    resize_mask,
    smallest_defect,
)


def drawn(ground: int, mark: int) -> NDArray[np.uint8]:
    """A mask of 30 × 40 pixels with a defect of 10 × 10."""
    mask = np.full((30, 40), ground, np.uint8)
    mask[5:15, 20:30] = mark
    return mask


DEFECT = drawn(0, 1) > 0


def saved(path: Path, image: Image.Image | NDArray[np.generic], **options: Any) -> Path:
    made = image if isinstance(image, Image.Image) else Image.fromarray(image)
    made.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "I;16"])
def test_masks_of_two_values_are_taken_as_they_are_in_any_mode(tmp_path: Path, mode: str) -> None:
    grey = drawn(0, 255)
    image = Image.fromarray(grey.astype(np.uint16) if mode == "I;16" else grey)
    mask = load_mask(saved(tmp_path / "mask.png", image if mode == "I;16" else image.convert(mode)))
    np.testing.assert_array_equal(mask.marked, DEFECT)
    assert mask.values is None


@pytest.mark.parametrize(("ground", "mark"), [(0, 1), (0, 4), (3, 200), (84, 253), (254, 255)])
def test_the_larger_of_two_values_marks(tmp_path: Path, ground: int, mark: int) -> None:
    mask = load_mask(saved(tmp_path / "mask.png", drawn(ground, mark)))
    np.testing.assert_array_equal(mask.marked, DEFECT)
    assert mask.values is None


def test_a_palette_of_two_colours_without_black(tmp_path: Path) -> None:
    image = Image.fromarray(drawn(0, 1)).convert("P")
    image.putpalette([68, 1, 84, 253, 231, 37])  # viridis
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "mask.png", image)), DEFECT)


def test_small_numbers_of_kinds_of_defect_all_mark(tmp_path: Path) -> None:
    labels = drawn(0, 1)
    labels[5:10, 20:30] = 3
    mask = load_mask(saved(tmp_path / "mask.png", labels * np.uint8(7)))
    np.testing.assert_array_equal(mask.marked, DEFECT)
    assert mask.values is None


def test_soft_borders_and_jpeg_artefacts_are_cut_in_the_middle(tmp_path: Path) -> None:
    image = Image.fromarray(drawn(0, 255))
    soft = load_mask(saved(tmp_path / "soft.png", image.filter(ImageFilter.BoxBlur(1))))
    assert soft.values is not None
    assert soft.values > 2
    assert (soft.marked != DEFECT).sum() <= 4  # the corners
    jpeg = load_mask(saved(tmp_path / "mask.jpg", image, quality=50))
    assert jpeg.values is not None
    np.testing.assert_array_equal(jpeg.marked, DEFECT)


def test_a_mask_of_one_value_marks_all_or_nothing(tmp_path: Path) -> None:
    assert read_mask(saved(tmp_path / "white.png", drawn(255, 255))).all()
    assert not read_mask(saved(tmp_path / "black.png", drawn(0, 0))).any()


def test_a_folder_of_masks_is_their_union(tmp_path: Path) -> None:
    folder = tmp_path / "000"
    folder.mkdir()
    first, second = drawn(0, 255), drawn(0, 0)
    second[20:, :5] = 254
    saved(folder / "000.png", first)
    saved(folder / "001.png", second)
    (folder / "notes.json").write_text("{}")
    np.testing.assert_array_equal(read_mask(folder), (first > 0) | (second > 0))
    saved(folder / "002.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(ImageError, match="not of one size"):
        read_mask(folder)


def test_masks_that_mark_most_of_the_image_or_its_border_are_doubtful(tmp_path: Path) -> None:
    assert doubt_about(DEFECT) is None
    assert doubt_about(~DEFECT) == "marks 92% of the image"
    border = np.zeros((30, 40), bool)
    border[[0, -1]] = border[:, [0, -1]] = True
    assert doubt_about(border) == "marks the whole border of the image"
    border[0, 7] = False
    assert doubt_about(border) is None


def photograph(path: Path, orientation: int, size: tuple[int, int] = (40, 30)) -> Path:
    """A photograph whose stored pixels are of ``size``."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(path, Image.new("RGB", size), exif=exif)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_drawn_on_the_stored_pixels_is_turned_like_its_image(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    image = photograph(tmp_path / f"image{suffix}", orientation)
    with Image.open(image) as opened:
        assert ImageOps.exif_transpose(opened).size == (30, 40)
    tagged = Image.Exif()
    tagged[0x0112] = orientation
    saved(tmp_path / "upright.png", Image.fromarray(drawn(0, 255)), exif=tagged)
    upright = read_mask(tmp_path / "upright.png")
    stored = read_mask(saved(tmp_path / "stored.png", drawn(0, 255)), image=image)
    np.testing.assert_array_equal(stored, upright)
    again = read_mask(saved(tmp_path / "again.png", upright), image=image)
    np.testing.assert_array_equal(again, upright)
    np.testing.assert_array_equal(read_mask(tmp_path / "upright.png", image=image), upright)


@pytest.mark.parametrize(("orientation", "size"), [(2, (40, 30)), (3, (40, 30)), (6, (30, 30))])
def test_a_mask_that_may_be_of_either_is_refused(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    image = photograph(tmp_path / "image.jpg", orientation, size)
    mask = saved(tmp_path / "mask.png", drawn(0, 255)[:, : size[0]])
    with pytest.raises(ImageError, match=r"mask\.png: nobody can tell .*image\.jpg.*; save the"):
        read_mask(mask, image=image)
    blank = saved(tmp_path / "blank.png", drawn(0, 0)[:, : size[0]])
    assert not read_mask(blank, image=image).any(), "turning it changes nothing"


def test_a_mask_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: cannot be read"):
        read_mask(tmp_path / "gone.png")


@given(
    seed=st.integers(0, 99),
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
)
def test_masks_resize_by_area(seed: int, height: int, width: int, rows: int, columns: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    # Exact areas: every source pixel as rows × columns equal parts, summed over the new pixels.
    parts = np.kron(mask, np.ones((rows, columns)))
    share = parts.reshape(rows, height, columns, width).mean(axis=(1, 3))
    resized = resize_mask(mask, rows, columns)
    assert resized[share >= 0.5].all()
    kept = resized & (share < 0.5)
    assert (share[kept] > 0).all()
    regions = ndimage.label(mask, np.ones((3, 3)))[1]
    assert kept.sum() <= regions
    assert resized.any() == mask.any()


def test_a_region_that_vanishes_keeps_its_largest_pixel() -> None:
    mask = np.zeros((64, 64), bool)
    mask[7:11, 7:9] = True  # 1 × 2 pixels of one small pixel, 3 × 2 of another
    mask[40:60, 40:60] = True
    resized = resize_mask(mask, 8, 8)
    assert resized[:4, :4].sum() == 1
    assert resized[1, 0] or resized[1, 1]
    assert resized[5:7, 5:7].all()


def test_a_mask_keeps_its_pixels_at_its_own_size() -> None:
    mask = np.random.default_rng(0).random((32, 32)) < 0.5
    np.testing.assert_array_equal(resize_mask(mask, 32, 32), mask)


def test_the_smallest_defect_is_the_one_with_the_shortest_side() -> None:
    mask = np.zeros((40, 60), bool)
    assert smallest_defect(mask) is None
    mask[5:15, 5:15] = True
    mask[30, 20:50] = True
    mask[31, 50] = True  # touches the line at a corner
    assert smallest_defect(mask) == (2, 31)
    mask[20, 2:5] = True
    assert smallest_defect(mask) == (1, 3)


def test_defects_outside_the_region_of_interest_are_not_the_smallest() -> None:
    mask, counted = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    mask[2:12, 2:12] = True
    mask[18, 18] = True
    counted[:4] = True
    assert smallest_defect(mask, counted) == (10, 10)
    assert smallest_defect(mask, np.zeros((20, 20), bool)) is None
