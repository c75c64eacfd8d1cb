"""What the repository says about measured figures, against the cells that they come from."""

import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from benchmarks.cells import is_of_the_code, read_cells
from benchmarks.results_page import render

from stillwatch.detectors import detector_class, detector_classes

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def test_the_page_is_made_of_the_cells() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert page == render(list(read_cells(RESULTS))), (
        "it is what render makes of benchmarks/results"
    )


@pytest.mark.parametrize("name", detector_classes())
def test_a_methods_docstring_has_its_figures(name: str) -> None:
    """Image AUROC and AUPRO of the profile laptop at 256 pixels, means over the seeds.

    There are none while no cell is of the code's version of the method.
    """
    docstring = sys.modules[detector_class(name).__module__].__doc__ or ""
    said = re.findall(r"^ {4}([a-z]+) +([\d.]+) +([\d.]+)$", docstring, re.MULTILINE)
    measured = [
        (category, *figures(files))
        for category in ("cloth", "plate", "screw")
        if (files := files_of(category, name))
    ]
    assert said == measured, f"its lines should say {measured}"


def files_of(category: str, name: str) -> list[Path]:
    """The cells of the code's version of a method."""
    files = sorted(RESULTS.glob(f"{category}-{name}-*-256-[0-9].json"))
    return [file for file in files if is_of_the_code(json.loads(file.read_bytes()))]


def figures(files: Sequence[Path]) -> tuple[str, str]:
    reports = [json.loads(file.read_bytes())["report"] for file in files]
    auroc, aupro = (
        statistics.mean(report[key] for report in reports) for key in ("image_auroc", "aupro")
    )
    return f"{auroc:.3f}", f"{aupro:.3f}"
