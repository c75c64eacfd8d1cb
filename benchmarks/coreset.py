"""How long PatchCore takes to choose its memory from the patches of a category's train normals.

The features are computed before the clock starts: what is timed is their aggregation, the
whitening, the random projection and the greedy choice. Prints a table and writes JSON.

    .venv/bin/python -m benchmarks.coreset --root mvtec --category screw --images 320 \
        --out results/coreset.json
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.revision import commit, machine
from benchmarks.tables import markdown
from stillwatch.detectors import build_detector
from stillwatch.files import write_json
from stillwatch.geometry import fitted
from stillwatch.images.decode import read_image
from stillwatch.images.layout import scan_category
from stillwatch.settings import TeacherSettings
from stillwatch.teachers.networks import STRIDES, Teacher, images_to_input, load_teacher

_BATCH = 16


class _Remembered:
    """A batch of which only the features are asked for."""

    def __init__(self, features: list[Tensor]) -> None:
        self.features = features

    def covered(self, stride: int) -> Tensor:
        """Every position: the images fill their tiles."""
        count, _, height, width = self.features[0].shape
        scale = stride // STRIDES[0]
        return torch.ones(count, height // scale, width // scale, dtype=torch.bool)


class _Normals(list[_Remembered]):
    """Batches, whose number is that of their images."""

    def __len__(self) -> int:
        return sum(len(batch.features[0]) for batch in self)


def main(arguments: Sequence[str]) -> None:
    """Time the choice, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--root", type=Path, required=True)
    add("--category", required=True)
    add("--images", type=int, default=320, help="train normals, in the order of their names")
    add("--side", type=int, default=256, help="pixels")
    add("--coreset", type=float, default=0.01, help="share of the patches")
    add("--repeats", type=int, default=3)
    add("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    teacher = load_teacher(TeacherSettings())
    batches = _features(teacher, given.root / given.category, given.images, given.side)
    seconds = []
    for _ in range(given.repeats):
        detector = build_detector("patchcore", teacher, {"coreset": given.coreset})
        began = time.perf_counter()
        detector.prepare(batches)
        seconds.append(time.perf_counter() - began)
    found = {
        "commit": commit(),
        "machine": machine(torch.device("cpu")),
        "images": len(batches),
        "chosen": len(detector.memory.patches),
        "seconds": seconds,
    }
    write_json(given.out, found)
    columns = ("images", "chosen patches", "seconds, median", "lowest", "highest")
    figures = (statistics.median(seconds), min(seconds), max(seconds))
    row = [str(found["images"]), str(found["chosen"]), *(f"{value:.1f}" for value in figures)]
    print("\n".join(markdown(columns, [row])))


def _features(teacher: Teacher, folder: Path, images: int, side: int) -> _Normals:
    files = [folder / file.path for file in scan_category(folder).train_normals[:images]]
    if len(files) < images:
        raise SystemExit(f"{folder}: has {len(files)} train normals, not {images}.")
    square = fitted([(side, side)], side)
    batches = _Normals()
    for start in range(0, len(files), _BATCH):
        part = files[start : start + _BATCH]
        pixels = np.stack([read_image(file, square, white_level=None) for file in part])
        with torch.inference_mode():
            batches.append(_Remembered(teacher(images_to_input(torch.from_numpy(pixels)))))
    return batches


if __name__ == "__main__":
    main(sys.argv[1:])
