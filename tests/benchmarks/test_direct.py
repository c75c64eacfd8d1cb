"""A training and an evaluation without a server, on small made images."""

from pathlib import Path

import pytest
from benchmarks.direct import measure, scale_of, split_of
from benchmarks.sheets import make_small_defects

from stillwatch.images.layout import scan_category
from stillwatch.settings import Settings


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "sheet"
    make_small_defects(folder, side=96, train_normals=16, test_normals=2, anomalies=2, seed=0)
    return folder


def settings(**sections: object) -> Settings:
    alphas = {"alpha_reject": 0.25, "alpha_review": 0.25}
    quick = {
        "training": {"profile": "laptop", "device": "cpu"},
        "calibration": alphas,
        "evaluation": {"size": 64, "bootstrap_resamples": 100},
    }
    return Settings.model_validate(quick | sections)


def test_a_cell_has_the_figures_of_a_detector_in_tiles(sheet: Path) -> None:
    tiles = settings(images={"scale": scale_of("1.0"), "size": 64})
    cell = measure(sheet, tiles, "patchcore", 3)
    assert (cell["category"], cell["detector"], cell["seed"]) == ("sheet", "patchcore", 3)
    assert cell["geometry"] == "×1 in tiles of 64×64"
    assert (cell["test_normals"], cell["anomalies"]) == (2, 2)
    assert 1 <= cell["rank"] <= cell["calibration"] < 16
    for name in ("image_auroc", "calibration_auroc", "aupro", "recall", "false_alarm_rate"):
        assert 0 <= cell[name] <= 1, name
    assert cell["cpu_seconds"] > 0


def test_images_of_a_group_are_in_one_part(sheet: Path) -> None:
    category = scan_category(sheet)
    in_tens = settings(split={"group_pattern": r"^(\d\d)"})
    parts = split_of(category, in_tens)
    assert len(parts) == 16
    groups: dict[str, set[str]] = {}
    for path, part in parts.items():
        groups.setdefault(Path(path).name[:2], set()).add(part)
    assert all(len(found) == 1 for found in groups.values())


def test_the_scale_on_the_command_line() -> None:
    assert (scale_of("fit"), scale_of("0.5")) == ("fit", 0.5)
