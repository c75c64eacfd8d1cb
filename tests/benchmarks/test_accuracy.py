"""The accuracy benchmark: its page, and what it takes up where it stopped."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import cell_name, relevant_settings
from benchmarks.cells import is_there
from benchmarks.published_figures import PUBLISHED
from benchmarks.results_page import render
from stillwatch.detectors import detector_classes
from stillwatch.settings import Settings


def cell(detector: str, seed: int, auroc: float, **changes: Any) -> dict[str, Any]:
    report = {
        "image_auroc": auroc,
        "image_ap": 0.9,
        "pixel_auroc": None,
        "aupro": None,
        "recall": 0.5,
        "ms_per_image": 31.4,
        "train_seconds": 100.0 + seed,
    }
    return {
        "category": "plate",
        "detector": detector,
        "seed": seed,
        "commit": "0123456789abcdef",
        "machine": "a machine",
        "settings": {
            "teacher": {"name": "net"},
            "images": {"size": 256},
            "profile": "laptop",
            "photographs": None,
            "detector": {},
        },
        "report": report,
        "megabytes": 12.3,
        "against_calibration_auroc": 0.77,
        "same_light_auroc": 0.66,
        "published_score_auroc": None,
    } | changes


def test_a_row_is_the_mean_over_seeds_and_half_their_range() -> None:
    cells = [cell("stfpm", seed, auroc) for seed, auroc in enumerate((0.8, 0.9, 0.85))]
    page = render(cells)
    assert "--categories plate --detectors stfpm --seeds 0 1 2 --out results`, commit" in page
    assert "commit 0123456789, a machine." in page
    assert "| stfpm | net, 256 | laptop | 3 | 0.850 ± 0.050 | 0.770 ± 0.000 |" in page
    assert "| 0.660 ± 0.000 | 0.900 ± 0.000 | – | – |" in page
    assert "| 31 ± 0 | 101 ± 1 | 12 ± 0 | – |" in page
    assert "| stfpm | 0.955 | 0.970 |" in page
    assert "patchcore" not in page


def test_other_teachers_and_sizes_have_rows_of_their_own() -> None:
    larger = {"teacher": {"name": "net"}, "images": {"size": 320}}
    other = cell("stfpm", 0, 0.9)
    page = render([cell("stfpm", 0, 0.8), other | {"settings": other["settings"] | larger}])
    assert "| stfpm | net, 256 | laptop | 1 | 0.800 |" in page
    assert "| stfpm | net, 320 | laptop | 1 | 0.900 |" in page


def test_other_settings_have_rows_of_their_own() -> None:
    changed = cell("stfpm", 0, 0.9)
    changed["settings"]["detector"] = {"optimizer": "sgd", "batch_size": 8}
    page = render([cell("stfpm", 0, 0.8), changed])
    assert "| stfpm | net, 256 | laptop | 1 | 0.800 |" in page
    assert "| stfpm | net, 256 | laptop, optimizer=sgd | 1 | 0.900 |" in page
    names = [
        cell_name(Settings.model_validate({"detectors": {"stfpm": own}}), "plate", "stfpm", 0)
        for own in ({}, {"optimizer": "sgd"})
    ]
    assert names == [
        "plate-stfpm-efficientnet_lite0-256-0.json",
        "plate-stfpm-efficientnet_lite0-256-optimizer=sgd-0.json",
    ]


def test_what_trained_without_photographs_says_so() -> None:
    without = cell("efficient_ad", 0, 0.7)
    given = cell("efficient_ad", 0, 0.8)
    given["settings"] = given["settings"] | {"photographs": "digest"}
    page = render([without, given])
    assert "| efficient_ad | net, 256, no photographs |" in page
    assert "| efficient_ad | net, 256, photographs |" in page
    name = cell_name(Settings(), "plate", "efficient_ad", 0)
    assert name == "plate-efficient_ad-efficientnet_lite0-256-no_photographs-0.json"


def test_a_papers_own_score_has_a_column() -> None:
    page = render([cell("patchcore", 0, 0.9, published_score_auroc=0.87)])
    assert "| 12 | 0.870 |" in page


def test_every_method_that_has_a_paper_has_its_published_figures() -> None:
    assert set(PUBLISHED) == set(detector_classes())


@pytest.mark.parametrize(
    "change",
    [
        {"images": {"size": 128}},
        {"detectors": {"stfpm": {"epochs": 3}}},
        {"teacher": {"name": "resnet18.tv_in1k"}},
    ],
)
def test_a_cell_is_run_again_only_with_other_settings(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    file = tmp_path / "cell.json"
    wanted = relevant_settings(Settings(), "stfpm")
    assert not is_there(file, wanted)
    file.write_text(json.dumps(cell("stfpm", 0, 0.9) | {"settings": wanted}))
    assert is_there(file, wanted)
    assert is_there(file, relevant_settings(Settings(), "stfpm"))
    assert not is_there(file, relevant_settings(Settings.model_validate(change), "stfpm"))
