"""Folders of photographs: what is read of them, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillwatch.errors import ImageError, LayoutError
from stillwatch.images.photographs import (
    most_of_side,
    photograph_files,
    photographs_digest,
    read_photographs,
)


def photograph(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def flat(value: int, height: int = 12, width: int = 20) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_the_middle_squares_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    wide = flat(10)
    wide[:, :4] = wide[:, -4:] = 255
    photograph(tmp_path / "b" / "wide.png", wide)
    photograph(tmp_path / "a.png", flat(200, height=30))
    photograph(tmp_path / "c.png", flat(60))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._c.png").write_bytes(b"what a Mac writes beside a file")
    pixels = read_photographs(tmp_path, 8)
    assert pixels.shape == (3, 8, 8, 3)
    assert np.unique(pixels[0]).tolist() == [200]
    assert np.unique(pixels[1]).tolist() == [10]
    assert np.unique(pixels[2]).tolist() == [60]


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    for number in (1, 2, 4):
        photograph(tmp_path / f"{number}.png", flat(number))
    before = photographs_digest(tmp_path)
    assert photographs_digest(tmp_path) == before
    photograph(tmp_path / "2.png", flat(3))
    assert photographs_digest(tmp_path) != before


def test_of_very_many_an_even_part_is_read(tmp_path: Path) -> None:
    for number in range(2500):
        (tmp_path / f"{number:04}.png").touch()
    names = [path.stem for path in photograph_files(tmp_path)]
    assert len(names) == len(set(names)) == 1000
    assert names[:3] == ["0000", "0002", "0005"]
    assert names[-1] == "2497"


def test_of_large_photographs_fewer_are_read(tmp_path: Path) -> None:
    assert [most_of_side(side) for side in (8, 512, 1024, 4096, 8192)] == [1000, 1000, 254, 15, 3]
    for number in range(7):
        (tmp_path / f"{number}.png").touch()
    assert [path.stem for path in photograph_files(tmp_path, 3)] == ["0", "2", "4"]


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_a_folder_without_images_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(LayoutError, match=r"training\.photographs: .* holds 0 images"):
        read_photographs(tmp_path / folder, 8)


def test_two_photographs_are_too_few_since_one_is_watched_and_the_other_has_no_negative(
    tmp_path: Path,
) -> None:
    for number in (1, 2):
        photograph(tmp_path / f"{number}.png", flat(number))
    with pytest.raises(LayoutError, match=r"holds 2 images, and at least 3 are needed"):
        photograph_files(tmp_path)


def test_a_damaged_photograph_is_named(tmp_path: Path) -> None:
    for number in (1, 3):
        photograph(tmp_path / f"{number}.png", flat(number))
    (tmp_path / "2.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"2\.png"):
        read_photographs(tmp_path, 8)
