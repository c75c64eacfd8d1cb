"""The check on a GPU: its dry run on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from absent_packages import without

from stillwatch.detectors import detector_classes

ROOT = Path(__file__).parents[2]
UPPER_FLOORS = {"prefect", "mlflow", "dvc", "great_expectations"}


@pytest.mark.costly
def test_a_dry_run_takes_steps_of_every_method_without_the_upper_floors_libraries(
    tmp_path: Path,
) -> None:
    out = tmp_path / "gpu-check.json"
    code = "from benchmarks.gpu_check import main\n"
    code += f"raise SystemExit(main(['--dry-run', '--out', {str(out)!r}]))\n"
    done = subprocess.run(
        [sys.executable, "-c", without(UPPER_FLOORS, code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_bytes())
    assert {row["method"] for row in found["methods"]} == set(detector_classes())
    for row in found["methods"]:
        assert row["float32"]["images_per_second"] > 0
        trains = row["phase"] != "preparation"
        assert ("bfloat16" in row) is trains
        assert row["float32"]["steps"] == (2 if trains else 0)
    assert {row["teacher"] for row in found["methods"]} > {"none"}
    assert found["together"]["gain"] > 0
    assert found["full_device"]["retried_with"] < found["full_device"]["batch_size"]
    page = out.with_suffix(".md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in detector_classes())
    assert "random weights" in page
