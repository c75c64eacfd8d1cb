"""The benchmark beside anomalib, where anomalib is not installed, and its table."""

import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.against_anomalib import main, render


@pytest.mark.parametrize("python", [sys.executable, "absent/bin/python"])
def test_without_anomalib_nothing_is_measured(
    python: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["absent/nut", "--python", python, "--out", str(tmp_path)])
    assert "has no anomalib: nothing was measured" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def cell(**anomalib: Any) -> dict[str, Any]:
    return {
        "category": "nut",
        "detector": "stfpm",
        "teacher": "resnet18",
        "has_random_weights": True,
        "settings": {"method_version": 2, "epochs": 3, "size": 256},
        "commit": "0123456789abcdef",
        "machine": "a machine",
        "train_images": 20,
        "stillwatch": {"train_seconds": 10.0, "ms_per_image": 20.0, "auroc": 0.9},
        "anomalib": anomalib,
    }


def test_both_sides_are_in_one_row() -> None:
    theirs = {"version": "2.7", "train_seconds": 45.0, "ms_per_image": 30.0, "auroc": 0.8}
    page = render([cell(**theirs), cell(error="no decoder")])
    start = "| nut | `stfpm` | resnet18, random weights | 3 | 0.500 |"
    assert f"{start} 2.250 | 4.5 | 20.0 | 30.0 | 1.5 | 0.900 | 0.800 |" in page
    assert f"{start} no decoder | – | 20.0 | – | – | 0.900 | – |" in page
    assert "anomalib 2.7." in page
