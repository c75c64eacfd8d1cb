"""What the repository says about measured figures, against the cells that they come from."""

import json
import re
import statistics
import sys
from pathlib import Path

import pytest
from benchmarks.cells import read_cells
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
    """Image AUROC and AUPRO of the profile laptop at 256 pixels, means over the seeds."""
    docstring = sys.modules[detector_class(name).__module__].__doc__ or ""
    said = re.findall(r"^ {4}([a-z]+) +([\d.]+) +([\d.]+)$", docstring, re.MULTILINE)
    measured = [(category, *figures(category, name)) for category in ("cloth", "plate", "screw")]
    assert said == measured, f"its lines should say {measured}"


def figures(category: str, name: str) -> tuple[str, str]:
    files = sorted(RESULTS.glob(f"{category}-{name}-*-256-[0-9].json"))
    reports = [json.loads(file.read_bytes())["report"] for file in files]
    auroc, aupro = (
        statistics.mean(report[key] for report in reports) for key in ("image_auroc", "aupro")
    )
    return f"{auroc:.3f}", f"{aupro:.3f}"
