"""Champions without a detector, and rows of their score log."""

from pathlib import Path

import numpy as np
import pandas as pd
from made_bundles import make_info
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from stillwatch.bundle import write_bundle
from stillwatch.tasks.registry.versions import CHAMPION, model_name
from stillwatch.tasks.tracking.client import BUNDLE, Tracking
from stillwatch.tasks.training.training_images import TRAINING_IMAGES

RECORD = {
    "md5": [],
    "brightness": np.linspace(118, 122, 20).tolist(),
    "sharpness": np.linspace(50, 60, 20).tolist(),
}
"""Of the training images."""


def make_champion(tracking: Tracking, folder: Path, category: str = "plate") -> int:
    """A new champion whose calibration scores are 40 standard normal numbers."""
    name = model_name(category)
    scores = np.random.default_rng(0).normal(size=40).astype(np.float32)
    info = make_info(scores, category=category)
    write_bundle(folder / "artifacts" / BUNDLE, info, {"weight": np.ones(1, np.float32)})
    run_id = tracking.start_run(category, "brightness", {})
    tracking.client.log_dict(run_id, RECORD, TRAINING_IMAGES.name)
    try:
        tracking.client.create_registered_model(name)
    except MlflowException:
        assert tracking.client.get_registered_model(name)
    made = tracking.client.create_model_version(name, folder.as_uri(), run_id)
    tracking.client.set_registered_model_alias(name, CHAMPION, made.version)
    return int(made.version)


def inspected(scores: NDArray[np.float64], *, brightness: float = 120) -> pd.DataFrame:
    """Rows of the score log, one image a minute."""
    return pd.DataFrame(
        {
            "time": pd.date_range("2026-11-22 10:00", periods=scores.size, freq="min", tz="UTC"),
            "score": scores.astype(np.float32),
            "brightness": np.full(scores.size, brightness),
            "sharpness": np.full(scores.size, 55.0),
        },
        index=pd.RangeIndex(1, scores.size + 1, name="id"),
    )


def quiet(count: int) -> NDArray[np.float64]:
    return np.random.default_rng(1).normal(size=count)


def drifting(begin: int, count: int = 150) -> NDArray[np.float64]:
    """Scores that are higher from image ``begin`` on."""
    return np.concatenate([quiet(begin - 1), np.random.default_rng(2).normal(3, 1, count)])
