"""A copy of a category without its grain."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks.smoothed import main, smooth_category
from PIL import Image


def test_images_lose_their_grain_and_masks_stay_as_they_are(tmp_path: Path) -> None:
    grain = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    paths = ("train/good/0.png", "test/dent/0.png", "ground_truth/dent/0_mask.png")
    for path in paths:
        file = tmp_path / "root" / "plate" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grain).save(file)
    what = ["--root", str(tmp_path / "root"), "--category", "plate", "--sigma", "2"]
    given = [*what, "--out", str(tmp_path / "out")]
    main(given)
    copy = tmp_path / "out" / "plate_smoothed"
    image, test, mask = (np.asarray(Image.open(copy / path)) for path in paths)
    np.testing.assert_array_equal(mask, grain)
    np.testing.assert_array_equal(image, test)
    assert image.std() < grain.std() / 4
    assert image.mean() == pytest.approx(grain.mean(), abs=2)
    with pytest.raises(FileExistsError):
        smooth_category(tmp_path / "root" / "plate", copy, 2.0)


@pytest.mark.parametrize("category", ["plate", "plat"])
def test_what_is_there_already_or_nowhere_ends_it_with_a_sentence(
    category: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plate").mkdir()
    (tmp_path / "plate_smoothed").mkdir()
    what = ["--root", str(tmp_path), "--category", category, "--sigma", "2"]
    with pytest.raises(SystemExit):
        main([*what, "--out", str(tmp_path)])
    said = {"plate": "plate_smoothed is there already", "plat": "plat: no such folder"}
    assert said[category] in capsys.readouterr().err
