"""The benchmark of methods on several categories: its cells and its tables."""

from pathlib import Path
from typing import Any

import pytest
from benchmarks.accuracy import main, render

from stillwatch.detectors import detector_class
from stillwatch.files import write_json


def cell(category: str, detector: str, seed: int, auroc: float) -> dict[str, Any]:
    return {
        "category": category,
        "detector": detector,
        "settings": {"method_version": detector_class(detector).version},
        "seed": seed,
        "commit": "0123456789abcdef",
        "machine": "a machine",
        "calibration_auroc": auroc,
        "image_auroc": 0.8,
        "aupro": None if category == "sheet" else 0.7,
        "recall": 0.5,
        "false_alarm_rate": 0.1,
        "calibration": 39,
        "rank": 38,
        "test_normals": 40,
        "cpu_seconds": 60.0,
        "ms_per_image": 10.0,
    }


def test_means_over_categories_first_and_the_best_method_on_top() -> None:
    cells = [
        *(cell("sheet", "stfpm", seed, 0.6 + 0.1 * seed) for seed in (0, 1)),
        *(cell("nut", "stfpm", seed, 0.8 + 0.1 * seed) for seed in (0, 1)),
        *(cell(name, "patchcore", seed, 0.9) for name in ("sheet", "nut") for seed in (0, 1)),
    ]
    page = render(cells, "command")
    rest = "0.800 ± 0.000 | 0.700 ± 0.000 | 0.500 ± 0.000 | 0.100 ± 0.000 | 60 ± 0 | 10 ± 0 |"
    assert f"| `stfpm` | 0.750 ± 0.050 | {rest}" in page
    assert page.index("| `patchcore` |") < page.index("| `stfpm` |")
    assert "| sheet | `stfpm` | 0.650 ± 0.050 | 0.800 ± 0.000 | – |" in page
    assert "together took 8 minutes" in page


def test_false_alarms_are_held_against_the_beta_binomial_interval() -> None:
    """39 calibration images, rank 38: the 99.5 % quantile of betabinom(40, 2, 38) is 9."""
    found = [cell("nut", "stfpm", 0, 0.9), cell("nut", "patchcore", 0, 0.9)]
    found[1]["false_alarm_rate"] = 0.5
    page = render(found, "command", grouped=("nut",))
    assert "| nut | several | 39 | 40 | 4 to 20 | 0 to 9 | 1 of 2 |" in page


def test_a_figure_that_no_cell_has_is_a_dash() -> None:
    """Without masks and good test images."""
    without = cell("nut", "stfpm", 0, 0.9) | {"aupro": None, "image_auroc": None}
    page = render([without | {"false_alarm_rate": None}], "command")
    assert "| `stfpm` | 0.900 | – | – | 0.500 | – | 60 | 10 |" in page


def test_only_cells_of_an_earlier_version_are_run_again(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    what = ["absent/nut", "--detectors", "stfpm", "--out", str(tmp_path), "--page", str(page)]
    write_json(tmp_path / "nut-stfpm-0.json", cell("nut", "stfpm", 0, 0.9))
    main(what)
    assert "| nut | `stfpm` | 0.900 |" in page.read_text(encoding="utf-8")
    write_json(
        tmp_path / "nut-stfpm-0.json",
        cell("nut", "stfpm", 0, 0.9) | {"settings": {"method_version": 0}},
    )
    with pytest.raises(SystemExit, match="nut"):
        main(what)
