import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

TOP = Path(__file__).resolve().parents[3]


def test_the_folder_does_not_hide_the_library() -> None:
    assert not list((TOP / "mlflow").glob("__init__.py"))
    assert not Path(mlflow.__file__).is_relative_to(TOP / "mlflow")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project file and its link, with an installation that only says what it is asked."""
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "MLproject").write_bytes((TOP / "mlflow" / "MLproject").read_bytes())
    (tmp_path / "MLproject").symlink_to((TOP / "MLproject").readlink())
    (tmp_path / "Makefile").write_text("install:\n", encoding="utf-8")
    program = tmp_path / ".venv" / "bin" / "stillwatch"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > asked\n', encoding="utf-8")
    program.chmod(0o755)
    return tmp_path


@pytest.mark.costly
def test_mlflow_run_calls_the_command_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}")
    subprocess.run(
        [
            *(Path(sys.executable).parent / "mlflow", "run", ".", "--env-manager", "local"),
            *("-e", "retrain", "-P", "root=/parts"),
        ],
        cwd=project,
        check=True,
        capture_output=True,
    )
    asked = (project / "asked").read_text(encoding="utf-8").split()
    assert asked == ["--params", "params.yaml", "retrain", "--root", "/parts"]
