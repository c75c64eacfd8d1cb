"""Small image sets in the MVTec layout, made on the fly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeCategory = Callable[..., Path]


def write_image(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> None:
    """A smooth random colour image of (width, height) pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)


def write_mask(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    """A mask with a 5 × 4 rectangle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size[::-1], np.uint8)
    mask[10:14, 20:25] = 255
    Image.fromarray(mask).save(path)


@pytest.fixture
def make_category(tmp_path: Path) -> MakeCategory:
    """Writes ``set/<name>`` with train normals, test normals and anomalies with masks."""

    def make(
        name: str = "bolt", train: int = 6, test: int = 2, anomalies: int = 2, good: str = "good"
    ) -> Path:
        folder = tmp_path / "set" / name
        for index in range(train):
            write_image(folder / "train" / good / f"{index:03}.png", index)
        for index in range(test):
            write_image(folder / "test" / good / f"{index:03}.png", 100 + index)
        for index in range(anomalies):
            write_image(folder / "test" / "scratch" / f"{index:03}.png", 200 + index)
            write_mask(folder / "ground_truth" / "scratch" / f"{index:03}_mask.png")
        return folder

    return make
