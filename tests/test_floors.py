"""Imports run downward only, and the ground floor needs no orchestrator and no server."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from absent_packages import NOT_ON_AN_EDGE_BOX, without

ROOT = Path(__file__).parents[1]
FLOORS = {
    "src/stillwatch": {"stillwatch.tasks", "stillwatch.flows", "prefect", "mlflow", "dvc"}
    | {"great_expectations", "typer", "rich", "filelock"},
    "tasks": {"stillwatch.flows"},
}


def imported_packages(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {_floor(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(_floor(node.module))
    return found


def _floor(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "stillwatch" else 1])


@pytest.mark.parametrize("floor", FLOORS)
def test_no_floor_imports_what_is_above_it(floor: str) -> None:
    files = sorted(one for one in (ROOT / floor).rglob("*.py") if not one.is_symlink())
    assert files
    upward = {
        str(file.relative_to(ROOT)): sorted(imported_packages(file) & FLOORS[floor])
        for file in files
        if imported_packages(file) & FLOORS[floor]
    }
    assert upward == {}


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
