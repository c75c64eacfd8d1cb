import hashlib
from pathlib import Path

import numpy as np
import pytest
from benchmarks.sheets import SmallDefect, draw_sheet, make_small_defects

from stillwatch.images.layout import scan_category
from stillwatch.images.masks import read_mask, smallest_defect

KEY = (0, 2, 1, 1, 7)


def test_the_category_has_the_layout_of_mvtec_and_defects_of_the_sizes_asked_for(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "sheet"
    make_small_defects(
        folder, side=128, sizes=(6, 20), train_normals=3, test_normals=2, anomalies=4
    )
    category = scan_category(folder)
    assert len(category.train_normals) == 3
    assert len(category.test_normals) == 2
    defects = category.test_anomalies
    assert [image.defect_type for image in defects] == ["dent", "dent", "scratch", "scratch"]
    sizes = [smallest_defect(read_mask(folder / str(image.mask))) for image in defects]
    # Of the numbers 0 and 2, then 1 and 3; antialiasing moves an outline by a pixel.
    longer = [max(size) for size in sizes if size is not None]
    assert longer == pytest.approx([6, 15, 10, 20], abs=1.5)


@pytest.mark.parametrize("kind", ["dent", "scratch"])
@pytest.mark.parametrize("size", [6, 20, 40])
def test_masks_are_exact(kind: str, size: int) -> None:
    flawless = draw_sheet(KEY, 160, None)
    picture = draw_sheet(KEY, 160, SmallDefect(kind, size))  # type: ignore[arg-type]
    differs = picture.pixels != flawless.pixels
    assert not differs[~picture.mask].any()
    assert differs[picture.mask].mean() > 0.5
    difference = picture.pixels.astype(int) - flawless.pixels
    assert np.abs(difference).max() > 5 * np.abs(difference[picture.mask].mean())


def test_the_same_key_gives_the_same_pixels_on_every_machine() -> None:
    picture = draw_sheet(KEY, 128, SmallDefect("dent", 12))
    content = picture.pixels.tobytes() + picture.mask.tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == "f6f7bfa64a09d606"
    assert not np.array_equal(picture.pixels, draw_sheet((*KEY[:-1], 8), 128, None).pixels)
