"""A small sound category on disk, and its manifest."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stillwatch.images.layout import scan_category
from stillwatch.images.manifest import ImageFacts, Manifest, build_manifest
from stillwatch.images.split import assign, part_of
from stillwatch.settings import Settings

SETTINGS = Settings()
SIDE = 64


def picture(seed: int) -> NDArray[np.uint8]:
    """Random soft blobs: sharp enough, mid-grey, unlike every other one."""
    noise = np.random.default_rng(seed).integers(60, 200, (16, 16, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(large)


def save(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_category(folder: Path, *, train: int = 40, anomalies: int = 3) -> Path:
    """Write ``train`` train normals, 4 test normals and ``anomalies`` masked scratches."""
    for index in range(train):
        save(folder / f"train/good/{index:03}.png", picture(index))
    for index in range(4):
        save(folder / f"test/good/{index:03}.png", picture(1000 + index))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20:30, 20:40] = 255
    for index in range(anomalies):
        save(folder / f"test/scratch/{index:03}.png", picture(2000 + index))
        save(folder / f"ground_truth/scratch/{index:03}_mask.png", mask)
    return folder


def read_manifest(folder: Path, recorded: dict[str, str] | None = None) -> Manifest:
    """The manifest of a category on disk, split as by default."""
    category = scan_category(folder)
    plain = build_manifest(category, images=SETTINGS.images, expected_md5=None, parts=None)
    normals = {row.path: row.md5 for row in plain.rows if row.split == "train"}
    assignment = assign({}, normals, settings=SETTINGS.split, smallest_alpha=0.05)
    return build_manifest(
        category,
        images=SETTINGS.images,
        expected_md5=recorded,
        parts=part_of(normals, assignment),
    )


def changed(manifest: Manifest, path: str, /, **facts: Any) -> Manifest:
    """``manifest`` with other facts for one image."""
    return with_rows(manifest, lambda row: replace(row, **facts) if row.path == path else row)


def with_rows(manifest: Manifest, change: Callable[[ImageFacts], ImageFacts | None]) -> Manifest:
    """``manifest`` with every row changed, or left out where ``change`` gives None."""
    rows = [changed_row for row in manifest.rows if (changed_row := change(row)) is not None]
    return replace(manifest, rows=tuple(rows))
