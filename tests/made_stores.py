"""A real MLflow store in SQLite, made once: its first use takes seconds of migrations."""

import shutil
from pathlib import Path

from run_folder import made_once

from stillwatch.settings import Settings
from stillwatch.tasks.tracking.client import Tracking, mlflow_folder, open_tracking


def new_store(settings: Settings) -> Tracking:
    """An empty store where the settings want it."""
    folder = mlflow_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made_once("mlflow.db", _make), folder / "mlflow.db")
    return open_tracking(settings)


def _make(empty: Path) -> None:
    settings = Settings(state_dir=empty.parent)
    open_tracking(settings)
    (mlflow_folder(settings) / "mlflow.db").rename(empty)
