r"""Methods on several categories, so that no choice is tuned to one of them.

A choice between designs counts when the mean over the categories that it was *not* made on gains by
more than the spread of the seeds. The detectors that compete by default are trained with several
seeds, the others with one. The first figure is the image AUROC of the defective images against the
*calibration* normals: these have the light of the training images, which the normals of
some test sets have not. One JSON file per category, detector and seed; a cell that is there is not
run again unless the method has a new version. Each cell is a training of ``benchmarks.direct``.

    .venv/bin/python -m benchmarks.accuracy ROOT/screw ROOT/commutator ROOT/fabric_03 \
        --groups 'commutator=^(kos\d+)' 'fabric_03=^(\d+_\d+_\d+)' \
        --out benchmarks/results/accuracy --page docs/results.md

Without ``--page`` the tables are printed.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.bound import false_alarms, interval, is_within
from benchmarks.categories import add_categories, as_given, group_patterns
from benchmarks.cells import Cell, of_method
from benchmarks.direct import laptop_settings, measure
from benchmarks.published_figures import published_rows
from benchmarks.tables import markdown, mean_and_spread, origin, publish
from stillwatch.detectors import detector_classes
from stillwatch.errors import StillwatchError
from stillwatch.settings import RetrainSettings

_FIGURES = {
    "calibration_auroc": "AUROC against calibration",
    "image_auroc": "image AUROC",
    "aupro": "AUPRO",
    "recall": "recall",
    "false_alarm_rate": "false alarms",
}
_DETECTORS = [name for name in detector_classes() if name != "dinomaly"]
"""All that can learn from EfficientNet-Lite0."""
_ALARMS = ["category", "images of an item", "calibration images", "good test images"]
_ALARMS += ["rejected", "99 % interval", "trainings within"]
_PUBLISHED = ["detector", "image AUROC", "pixel AUROC", "AUPRO", "teacher, size", "note"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cells that are missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_categories(parser)
    parser.add_argument("--detectors", nargs="+", default=_DETECTORS)
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0, 1, 2],
        help="of the detectors that compete by default; the others have the first one",
    )
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="file of the tables; printed if not given")
    given = parser.parse_args(arguments)
    try:
        cells = list(_cells(given))
    except StillwatchError as error:
        sys.exit(str(error))
    publish(render(cells, _command(given), grouped=group_patterns(given)), given.page)


def _command(given: argparse.Namespace) -> str:
    return (
        f"python -m benchmarks.accuracy {as_given(given)} "
        f"--detectors {' '.join(given.detectors)} --seeds {' '.join(map(str, given.seeds))} "
        "--out benchmarks/results/accuracy --page docs/results.md"
    )


def _cells(given: argparse.Namespace) -> Iterator[Cell]:
    defaults = RetrainSettings().detectors
    for detector in given.detectors:
        seeds = given.seeds if detector in defaults else given.seeds[:1]
        yield from _cells_of(given, detector, seeds)


def _cells_of(given: argparse.Namespace, detector: str, seeds: Sequence[int]) -> Iterator[Cell]:
    patterns = group_patterns(given)
    for folder, seed in product(given.categories, seeds):
        file = given.out / f"{folder.name}-{detector}-{seed}.json"
        settings = laptop_settings(given.weights, patterns.get(folder.name))
        yield of_method(file, detector, partial(measure, folder, settings, detector, seed))


def render(cells: Sequence[Cell], command: str, *, grouped: Collection[str] = ()) -> str:
    """Means over the categories, then each category.

    Args:
        cells: of every detector the same categories.
        command: what measured.
        grouped: categories with several images of one item.
    """
    by_detector: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_detector[cell["detector"]].append(cell)
    ordered = sorted(by_detector.values(), key=_first_figure, reverse=True)
    minutes = sum(cell["cpu_seconds"] for cell in cells) / 60
    head = ["detector", *_FIGURES.values(), "training, CPU s", "ms per image"]
    return "\n".join(
        [
            "# Methods on several categories",
            "",
            origin(command, cells),
            f"All trainings together took {minutes:.0f} minutes of CPU time.",
            "",
            "Means over the categories; with several seeds ± half the distance from the lowest to "
            "the highest. The first figure has the light of the training images on both sides: the "
            "defective test images against the calibration normals. Profile `laptop`, "
            "EfficientNet-Lite0, 256 pixels.",
            "",
            *markdown(head, [_summary(found) for found in ordered]),
            "",
            "## Each category",
            "",
            *markdown(["category", *head], [row for found in ordered for row in _details(found)]),
            "",
            "## False alarms against the promise",
            "",
            "Rejected good test images of all trainings above, and the interval that has 99 % of "
            "the numbers if calibration and test images are independent and of one process.",
            "",
            *markdown(_ALARMS, list(_alarms(cells, grouped))),
            "",
            "## As published",
            "",
            "MVTec AD, mean of its 15 categories: other teachers, other sizes, longer trainings. "
            "'Recalled' marks a figure that was not checked again in its source.",
            "",
            *markdown(_PUBLISHED, list(published_rows())),
            "",
        ]
    )


def _alarms(cells: Sequence[Cell], grouped: Collection[str]) -> Iterator[list[str]]:
    categories: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell["false_alarm_rate"] is not None:
            categories[cell["category"]].append(cell)
    for name, found in categories.items():
        n, m, rank = (found[0][key] for key in ("calibration", "test_normals", "rank"))
        low, high = interval(n, rank, m)
        alarms = [false_alarms(cell) for cell in found]
        yield [
            name,
            "several" if name in grouped else "one",
            *(str(n), str(m), f"{min(alarms)} to {max(alarms)}", f"{low} to {high}"),
            f"{sum(map(is_within, found))} of {len(found)}",
        ]


def _first_figure(cells: Sequence[Cell]) -> float:
    return _mean(cells, "calibration_auroc") or 0.0


def _mean(cells: Sequence[Cell], figure: str) -> float | None:
    known = [cell[figure] for cell in cells if cell[figure] is not None]
    return statistics.mean(known) if known else None


def _summary(cells: Sequence[Cell]) -> list[str]:
    """One row: the mean over the categories for each seed, then mean and spread of these."""
    seeds: dict[int, list[Cell]] = defaultdict(list)
    for cell in cells:
        seeds[cell["seed"]].append(cell)
    means = [
        {name: _mean(found, name) for name in (*_FIGURES, "cpu_seconds", "ms_per_image")}
        for found in seeds.values()
    ]
    return [f"`{cells[0]['detector']}`", *_figures(means)]


def _details(cells: Sequence[Cell]) -> Iterator[list[str]]:
    categories: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        categories[cell["category"]].append(cell)
    for name, found in categories.items():
        yield [name, f"`{found[0]['detector']}`", *_figures(found)]


def _figures(cells: Sequence[Cell]) -> list[str]:
    return [
        *(mean_and_spread([cell[name] for cell in cells], ".3f") for name in _FIGURES),
        mean_and_spread([cell["cpu_seconds"] for cell in cells], ".0f"),
        mean_and_spread([cell["ms_per_image"] for cell in cells], ".0f"),
    ]


if __name__ == "__main__":
    main()
