"""The novelty benchmark: one class against the rest, on images that are really trained on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.novelty import OWN_SETTINGS, OWN_SIDES, main
from benchmarks.novelty_data import CLASSES, one_class, read_dataset
from benchmarks.novelty_page import render
from numpy.typing import NDArray

from stillwatch.detectors import detector_classes, parse_detector_settings
from stillwatch.errors import LayoutError

NOWHERE = Path()
OWN_SIDE_OF_DIGITS = 8


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    """The cell of a quick method on one class of the digits."""
    what = ["--dataset", "digits", "--classes", "3", "--detectors", "patchcore", "--side", "32"]
    where = ["--out", str(folder), "--page", str(folder / "page.md")]
    main([*what, *where, *arguments])
    return json.loads((folder / "digits-3-patchcore-0.json").read_bytes())


def store_mnist(folder: Path, count: int) -> None:
    """Images in the files that torchvision reads; the label of image n is n modulo 10."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        _store_idx(raw / f"{part}-images-idx3-ubyte", images)
        _store_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)


def _store_idx(file: Path, values: NDArray[np.uint8]) -> None:
    sizes = np.array(values.shape, dtype=">u4")
    file.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes.tobytes() + values.tobytes())


def test_a_class_of_digits_is_told_from_the_rest_and_is_not_run_again(tmp_path: Path) -> None:
    cell = run(tmp_path)
    assert cell["image_auroc"] > 0.9
    assert cell["published_score_auroc"] > 0.9
    assert cell["train_normals"] == 82
    assert (
        "| patchcore | efficientnet_lite0, 32 | laptop | 1 |" in (tmp_path / "page.md").read_text()
    )

    file = tmp_path / "digits-3-patchcore-0.json"
    file.write_text(json.dumps(cell | {"image_auroc": 0.5}))
    assert run(tmp_path)["image_auroc"] == 0.5
    again = run(tmp_path, "--normals", "20")
    assert again["train_normals"] == 18
    assert again["image_auroc"] > 0.5


def test_parts_of_the_digits_share_no_image_and_lose_none() -> None:
    parts = read_dataset("digits", NOWHERE)
    seen: list[bytes] = []
    for number in CLASSES:
        images = one_class(parts, number, side=OWN_SIDE_OF_DIGITS)
        normals = len(images.train) + len(images.validation)
        assert len(images.validation) == round(0.1 * normals)
        assert abs(normals - (~images.anomalous).sum()) <= 1
        seen += [image.tobytes() for image in (*images.train, *images.validation)]
    seen += [image.tobytes() for image in images.test]
    assert len(set(seen)) == len(seen) == 1797


def test_the_same_images_are_drawn_again() -> None:
    first, second = (
        one_class(read_dataset("digits", NOWHERE), 3, side=OWN_SIDE_OF_DIGITS, normals=20)
        for _ in range(2)
    )
    assert np.array_equal(first.train, second.train)
    assert np.array_equal(first.validation, second.validation)
    assert (len(first.train), len(first.validation)) == (18, 2)


def test_stored_files_are_read_as_torchvision_reads_them(tmp_path: Path) -> None:
    store_mnist(tmp_path, 60)
    images = one_class(read_dataset("mnist", tmp_path), 4, side=32)
    assert images.train.shape == (5, 32, 32, 3)
    assert images.validation.shape == (1, 32, 32, 3)
    assert images.test.shape == (60, 32, 32, 3)
    assert np.flatnonzero(~images.anomalous).tolist() == [4, 14, 24, 34, 44, 54]
    assert (images.test == images.test[..., :1]).all()


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10"])
def test_missing_files_end_it_with_a_sentence(tmp_path: Path, dataset: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match=f"torchvision cannot read {dataset} there. Put") as stop:
        main(["--dataset", dataset, "--folder", str(tmp_path), "--out", str(out)])
    assert str(tmp_path) in str(stop.value)
    assert not out.exists()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    store_mnist(tmp_path, 20)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(LayoutError, match="cannot read mnist"):
        read_dataset("mnist", tmp_path)


def test_too_few_normals_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, "--normals", "1")
    assert "--normals is 1, and must be at least 2" in capsys.readouterr().err


def test_own_settings_are_settings_of_methods() -> None:
    assert set(OWN_SIDES) <= set(detector_classes())
    for name, values in OWN_SETTINGS.items():
        parse_detector_settings(name, values)


def cell(number: int, seed: int, auroc: float, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": "digits",
        "class": number,
        "detector": "multiresolution",
        "seed": seed,
        "commit": "0123456789abcdef",
        "machine": "a machine",
        "settings": {"teacher": "net", "side": 64, "detector": {}},
        "train_normals": 80 + number,
        "train_seconds": 10.0 + number,
        "image_auroc": auroc,
        "published_score_auroc": 0.9,
    } | changes


def test_a_row_has_a_mean_for_each_class_and_for_all() -> None:
    aurocs = {(0, 0): 0.8, (1, 0): 0.9, (0, 1): 0.9, (1, 1): 1.0}
    page = render([cell(*where, auroc) for where, auroc in aurocs.items()], "the command")
    assert "`the command`, commit 0123456789, a machine." in page
    assert "80 to 81 images are used for training" in page
    assert "| detector | teacher, size | profile | seeds | 0 | 1 | mean |" in page
    means = "0.850 | 0.950 | 0.900 ± 0.050 | 0.900 ± 0.000 | 10.5"
    assert f"| multiresolution | net, 64 | laptop | 2 | {means} |" in page
    assert "| multiresolution | 0.9871 (recalled) |" in page
    assert "uninformed_students" not in page


def test_a_mean_over_other_classes_is_not_given() -> None:
    stfpm = cell(0, 0, 0.7, detector="stfpm", published_score_auroc=None)
    page = render([cell(0, 0, 0.8), cell(1, 0, 0.9), stfpm], "the command")
    assert "| stfpm | net, 64 | laptop | 1 | 0.700 | – | – | – | 10.0 |" in page


def test_settings_of_its_own_stand_in_a_methods_row() -> None:
    own = {"teacher": "net", "side": 64, "detector": {"neighbours": 5}}
    page = render([cell(0, 0, 0.8, detector="patchcore", settings=own)], "the command")
    assert "| patchcore | net, 64 | laptop, neighbours=5 | 1 |" in page


def test_each_data_set_has_a_table_of_its_own() -> None:
    page = render([cell(0, 0, 0.8), cell(0, 0, 0.6, dataset="mnist")], "the command")
    assert "## digits" in page
    assert "## mnist" in page
    assert page.count("| 0.800 | 0.800 |") == page.count("| 0.600 | 0.600 |") == 1
