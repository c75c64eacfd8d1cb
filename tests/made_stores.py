"""A real MLflow store in SQLite, made once: its first use takes seconds of migrations."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from stillwatch.settings import Settings
from stillwatch.tasks.tracking.client import Tracking, mlflow_folder, open_tracking


@cache
def _empty_database() -> Path:
    settings = Settings(state_dir=Path(mkdtemp(prefix="stillwatch-tests-")))
    open_tracking(settings)
    return mlflow_folder(settings) / "mlflow.db"


def new_store(settings: Settings) -> Tracking:
    """An empty store where the settings want it."""
    folder = mlflow_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_empty_database(), folder / "mlflow.db")
    return open_tracking(settings)
