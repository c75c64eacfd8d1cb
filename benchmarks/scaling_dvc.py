"""What versioning costs as an image set grows, and what another machine pays for a category."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from stillwatch.settings import CalibrationSettings, ImageSettings, Settings
from stillwatch.tasks.data.examine import examine_category
from stillwatch.tasks.data.pull import category_here
from stillwatch.tasks.data.version import DataVersion, version_image_set
from stillwatch.tasks.data.workspace import Workspace, managed_workspace

IMAGES, SIDE = 20, 64
T = TypeVar("T")


def dvc_costs(folder: Path, categories: int) -> dict[str, float]:
    """Seconds for what a retraining asks of DVC on so many categories of twenty small images."""
    settings = Settings(
        state_dir=folder / "state",
        images=ImageSettings(size=SIDE),
        calibration=CalibrationSettings(alpha_reject=0.2, alpha_review=0.2),
    )
    (folder / "source").mkdir(parents=True)
    workspace = managed_workspace(settings.state_dir, folder / "source")
    for number in range(categories):
        category = workspace.data / f"category-{number:04}"
        write_images(category / "train" / "good", seed=number * IMAGES)
    first, _ = _timed(lambda: _version(workspace, settings))
    same, _ = _timed(lambda: _version(workspace, settings))
    _write_image(workspace.data / "category-0000" / "train" / "good" / "new.png", seed=-1)
    changed, data = _timed(lambda: _version(workspace, settings))
    category = examine_category(data.categories["category-0000"], root=data.root, settings=settings)
    there = settings.model_copy(update={"state_dir": folder / "another"})
    elsewhere = replace(data, host="another machine")
    pulled, _ = _timed(lambda: category_here(category, elsewhere, there))
    return {
        "first version, pushed": first,
        "nothing changed": same,
        "one image more": changed,
        "a category on another machine, pulled and decoded": pulled,
    }


def _version(workspace: Workspace, settings: Settings) -> DataVersion:
    return version_image_set(workspace, settings)


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    done = work()
    return time.perf_counter() - began, done


def write_images(folder: Path, seed: int, images: int = IMAGES) -> None:
    """Write so many images of noise, no two alike."""
    for number in range(images):
        _write_image(folder / f"{number:03}.png", seed + number)


def _write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(abs(seed) + (seed < 0)).integers(0, 256, (SIDE, SIDE, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)
