r"""What the scale of images does to small defects: squashed, fitted, and in tiles.

One JSON file per category, scale, detector and seed; a cell that is there is not run again unless
the method has a new version. Each cell is a training of ``benchmarks.direct``. *Squashed* images
are resized to 256 × 256 whatever their shape: the benchmark makes such a category first.

    .venv/bin/python -m benchmarks.large_images ROOT/commutator --group '^(kos\d+)' \
        --out benchmarks/results/large_images --page docs/large-images-measured.md

Without ``--page`` the table is printed.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path

from PIL import Image

from benchmarks.cells import Cell, of_method
from benchmarks.direct import laptop_settings, measure
from benchmarks.tables import markdown, mean_and_spread, origin, publish
from stillwatch.errors import StillwatchError
from stillwatch.images.layout import scan_category

SQUASHED = "squashed"
"""A scale of this benchmark only: the file's aspect ratio is lost."""
_SIDE = 256
_COMMAND = "python -m benchmarks.large_images"
_FIGURES = ("calibration_auroc", "image_auroc", "aupro", "recall", "false_alarm_rate")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cells that are missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("category", type=Path, help="folder of the category")
    parser.add_argument("--scales", nargs="+", default=[SQUASHED, "fit", "0.5", "1.0"])
    parser.add_argument("--detectors", nargs="+", default=["patchcore", "reverse_distillation"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--group", help="split.group_pattern")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="file of the table; printed if not given")
    given = parser.parse_args(arguments)
    try:
        cells = list(_cells(given))
    except StillwatchError as error:
        sys.exit(str(error))
    publish(render(cells), given.page)


def _cells(given: argparse.Namespace) -> Iterator[Cell]:
    for scale, detector, seed in product(given.scales, given.detectors, given.seeds):
        file = given.out / f"{given.category.name}-{scale}-{detector}-{seed}.json"
        yield of_method(file, detector, partial(_measured, given, scale, detector, seed))


def _measured(given: argparse.Namespace, scale: str, detector: str, seed: int) -> Cell:
    fitted = "fit" if scale == SQUASHED else scale
    settings = laptop_settings(given.weights, given.group, fitted)
    with _as_scaled(given.category, scale) as folder:
        return measure(folder, settings, detector, seed) | {"scale": scale}


@contextmanager
def _as_scaled(folder: Path, scale: str) -> Iterator[Path]:
    if scale != SQUASHED:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as made:
        yield squashed_category(folder, Path(made) / folder.name)


def squashed_category(folder: Path, made: Path) -> Path:
    """Write a category whose images and masks are resized to squares, whatever their shape."""
    category = scan_category(folder)
    for image in category.images:
        _squash(folder / image.path, made / image.path, Image.Resampling.BILINEAR)
        if image.mask is not None:
            _squash(folder / image.mask, made / image.mask, Image.Resampling.NEAREST)
    return made


def _squash(source: Path, target: Path, how: Image.Resampling) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        # PNG under the same name: the format is read from the content.
        image.resize((_SIDE, _SIDE), how).save(target, format="PNG")


def render(cells: Sequence[Cell]) -> str:
    """The table of all cells: means over the seeds, with half of their range."""
    rows: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        rows.setdefault((cell["category"], cell["scale"], cell["detector"]), []).append(cell)
    head = ["category", "scale", "network sees", "detector", "seeds"]
    head += ["AUROC against calibration", "image AUROC", "AUPRO", "recall", "false alarms"]
    head += ["training, CPU min", "ms per image"]
    lines = markdown(head, [_row(*key, found) for key, found in rows.items()])
    return "\n".join([origin(_COMMAND, cells), "", *lines]) + "\n"


def _row(category: str, scale: str, detector: str, cells: Sequence[Cell]) -> list[str]:
    return [
        category,
        scale,
        cells[0]["geometry"],
        detector,
        str(len(cells)),
        *(mean_and_spread([cell[name] for cell in cells], ".3f") for name in _FIGURES),
        mean_and_spread([cell["cpu_seconds"] / 60 for cell in cells], ".1f"),
        mean_and_spread([cell["ms_per_image"] for cell in cells], ".0f"),
    ]


if __name__ == "__main__":
    main()
