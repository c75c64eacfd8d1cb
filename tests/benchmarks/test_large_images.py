"""The benchmark of the scale of images: its squashed category, its cells and its table."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.large_images import main, render, squashed_category
from PIL import Image

from stillwatch.detectors import detector_class
from stillwatch.files import write_json
from stillwatch.images.layout import scan_category


def cell(scale: str, seed: int, recall: float | None) -> dict[str, Any]:
    return {
        "category": "sheet",
        "scale": scale,
        "detector": "patchcore",
        "settings": {"method_version": detector_class("patchcore").version},
        "seed": seed,
        "commit": "0123456789abcdef",
        "machine": "a machine",
        "geometry": "256×256",
        "calibration_auroc": 0.9,
        "image_auroc": 0.8,
        "aupro": None,
        "recall": recall,
        "false_alarm_rate": 0.0,
        "cpu_seconds": 60.0 * (seed + 1),
        "ms_per_image": 10.0,
    }


def test_a_row_is_the_mean_over_the_seeds() -> None:
    page = render([cell("squashed", 0, 0.1), cell("1.0", 0, 0.8), cell("1.0", 1, 0.6)])
    figures = "| 0.900 | 0.800 | – | 0.100 | 0.000 | 1.0 | 10 |"
    assert f"| sheet | squashed | 256×256 | patchcore | 1 {figures}" in page
    assert "| 0.700 ± 0.100 | 0.000 ± 0.000 | 1.5 ± 0.5 | 10 ± 0 |" in page


def test_cells_that_are_there_are_not_run_again(tmp_path: Path) -> None:
    for scale in ("squashed", "1.0"):
        write_json(tmp_path / f"sheet-{scale}-patchcore-0.json", cell(scale, 0, 0.5))
    page = tmp_path / "page.md"
    what = ["absent/sheet", "--scales", "squashed", "1.0", "--detectors", "patchcore"]
    main([*what, "--seeds", "0", "--out", str(tmp_path), "--page", str(page)])
    assert page.read_text(encoding="utf-8").count("| sheet |") == 2


def test_a_cell_without_a_version_is_run_again(tmp_path: Path) -> None:
    earlier = cell("fit", 0, 0.5)
    del earlier["settings"]
    write_json(tmp_path / "sheet-fit-patchcore-0.json", earlier)
    what = ["absent/sheet", "--scales", "fit", "--detectors", "patchcore", "--seeds", "0"]
    with pytest.raises(SystemExit, match="absent/sheet"):
        main([*what, "--out", str(tmp_path)])


def test_a_category_that_is_not_there_ends_it_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="sheet"):
        main([str(tmp_path / "sheet"), "--out", str(tmp_path)])


def test_a_squashed_category_has_square_images_and_masks(tmp_path: Path) -> None:
    wide = np.zeros((20, 60), np.uint8)
    wide[:, :30] = 255
    paths = ("train/good/0.png", "test/dent/0.png", "ground_truth/dent/0_mask.png")
    for path in paths:
        file = tmp_path / "sheet" / path
        file.parent.mkdir(parents=True)
        Image.fromarray(wide).save(file)
    made = squashed_category(tmp_path / "sheet", tmp_path / "squashed")
    assert [image.mask for image in scan_category(made).images] == [paths[2], None]
    for path in paths:
        pixels = np.asarray(Image.open(made / path))
        assert pixels.shape == (256, 256)
        assert (pixels[:, :120] == 255).all()
        assert (pixels[:, 136:] == 0).all()
    assert set(np.unique(np.asarray(Image.open(made / paths[2])))) == {0, 255}
