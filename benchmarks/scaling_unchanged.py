"""What a retraining costs that finds nothing to do, as the number of categories grows."""

import time
from pathlib import Path

import yaml

from benchmarks.local_prefect import local_prefect
from benchmarks.scaling_dvc import SIDE, write_images
from stillwatch.errors import TrainingError
from stillwatch.flows.retrain import run_retraining
from stillwatch.settings import load_settings

_TEST_NORMALS = 4
_QUICK = {
    "images": {"size": SIDE},
    "checks": {"min_train_normals": 4},
    "calibration": {"alpha_reject": 0.2, "alpha_review": 0.3},
    "detectors": {"stfpm": {"epochs": 1}},
    "evaluation": {"size": SIDE, "bootstrap_resamples": 100, "synthetic_anomalies": 4},
    "retrain": {"detectors": ["stfpm"]},
}


def unchanged_costs(folder: Path, categories: int) -> dict[str, float]:
    """Seconds for a retraining of so many tiny categories with one detector, and for the next one.

    Raises:
        TrainingError: a category could not be retrained.
    """
    images, params = folder / "images", folder / "params.yaml"
    for number in range(categories):
        category = images / f"category-{number:04}"
        write_images(category / "train" / "good", seed=1000 * number)
        write_images(category / "test" / "good", seed=1000 * number + 500, images=_TEST_NORMALS)
    params.write_text(yaml.safe_dump(_QUICK), encoding="utf-8")
    settings = load_settings(params)
    with local_prefect(settings):
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            report = run_retraining(settings, params=params, root=images)
            seconds.append(time.perf_counter() - started)
            if report.failed:
                raise TrainingError("; ".join(report.failed.values()))
    return {"everything new": seconds[0], "nothing changed": seconds[1]}
