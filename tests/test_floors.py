"""On an edge box stillwatch needs no library of the upper floors; import-linter checks its own."""

import subprocess
import sys

from absent_packages import NOT_ON_AN_EDGE_BOX, without

ON_AN_EDGE_BOX = (
    "images.manifest",
    "images.store",
    "inference",
    "inference.files",
    "inference.score_log",
    "calibration",
    "bundle",
    "comparison",
    "evaluation",
)


def test_an_edge_box_needs_neither_torch_nor_the_libraries_of_training() -> None:
    code = "".join(f"import stillwatch.{module}\n" for module in ON_AN_EDGE_BOX)
    result = subprocess.run(
        [sys.executable, "-c", without(NOT_ON_AN_EDGE_BOX, code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
