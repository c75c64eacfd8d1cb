r"""Whether the promised false-alarm rate holds through the whole path, files to verdicts.

With n calibration normals and the threshold at rank r, the number of false alarms among m new
normals has a beta-binomial distribution with a = n + 1 - r and b = r, if images are exchangeable
(Vovk, "Conditional validity of inductive conformal predictors", 2012). Two experiments:

- PatchCore fitted anew on random re-splits of a category's *images*, whole groups together. Scores
  of one fitted detector, split again, would be exchangeable by construction.
- One PatchCore, with many freshly drawn calibration and test sets of the sample category *cloth*,
  written to files and read again.

    .venv/bin/python -m benchmarks.bound ROOT/screw ROOT/commutator ROOT/fabric_03 \
        --groups 'commutator=^(kos\d+)' 'fabric_03=^(\d+_\d+_\d+)' --out benchmarks/results/bound \
        --page docs/bound.md
"""

import argparse
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import betabinom

from benchmarks.categories import add_categories, as_given, group_patterns
from benchmarks.cells import Cell, of_method
from benchmarks.direct import laptop_settings, measure, trained_bundle
from benchmarks.revision import commit, machine
from benchmarks.tables import markdown, origin, publish
from stillwatch.bundle import Bundle
from stillwatch.calibration import calibrate
from stillwatch.errors import StillwatchError
from stillwatch.images.decode import Pixels
from stillwatch.images.layout import Category, ImageFile, scan_category
from stillwatch.images.split import group_of
from stillwatch.inference.inspector import Inspector
from stillwatch.inference.scorers import open_scorer
from stillwatch.machine.devices import choose_device
from stillwatch.sample.image_set import draw_image, make_sample_set
from stillwatch.settings import Settings

_DETECTOR = "patchcore"
_CONFIDENCE = 0.99
_CALIBRATION, _TEST = 60, 60
"""Images of each fresh set."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cells that are missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_categories(parser)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--scale", default="1.0")
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="file of the tables; printed if not given")
    given = parser.parse_args(arguments)
    patterns = group_patterns(given)
    try:
        splits = [
            _of_split(folder, patterns.get(folder.name), number, given)
            for folder in given.categories
            for number in range(given.splits)
        ]
        file = given.out / f"fresh-{given.sets}.json"
        fresh = of_method(file, _DETECTOR, partial(_fresh_sets, given))
    except StillwatchError as error:
        sys.exit(str(error))
    publish(render(splits, fresh, _command(given), grouped=patterns), given.page)


def _command(given: argparse.Namespace) -> str:
    return (
        f"python -m benchmarks.bound {as_given(given)} --splits {given.splits} "
        f"--sets {given.sets} --scale {given.scale} --out benchmarks/results/bound "
        "--page docs/bound.md"
    )


def interval(n: int, rank: int, m: int) -> tuple[int, int]:
    """Numbers of false alarms among ``m`` new normals between which 99 % of all draws lie.

    Args:
        n: calibration normals.
        rank: of the calibration score that is the threshold, from 1 to n.
        m: new normals.
    """
    tail = (1 - _CONFIDENCE) / 2
    found = betabinom(m, n + 1 - rank, rank)
    return int(found.ppf(tail)), int(found.ppf(1 - tail))


def false_alarms(cell: Cell) -> int:
    """Rejected good test images of a training."""
    return round(cell["false_alarm_rate"] * cell["test_normals"])


def is_within(cell: Cell) -> bool:
    """Whether the false alarms of a training are within the interval."""
    low, high = interval(cell["calibration"], cell["rank"], cell["test_normals"])
    return low <= false_alarms(cell) <= high


def _of_split(folder: Path, pattern: str | None, number: int, given: argparse.Namespace) -> Cell:
    file = given.out / f"{folder.name}-{given.scale}-{number}.json"
    return of_method(file, _DETECTOR, partial(_split_again, folder, pattern, number, given))


def _split_again(folder: Path, pattern: str | None, number: int, given: argparse.Namespace) -> Cell:
    settings = laptop_settings(given.weights, pattern, given.scale)
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as made:
        again = drawn_again(scan_category(folder), pattern, number, Path(made) / folder.name)
        return measure(again, settings, _DETECTOR, number)


def drawn_again(category: Category, pattern: str | None, number: int, made: Path) -> Path:
    """A category whose normals are divided anew into train/good and test/good, by groups."""
    groups: dict[str, list[ImageFile]] = defaultdict(list)
    for image in (*category.train_normals, *category.test_normals):
        groups[group_of(image.path, pattern) or image.path].append(image)
    order = np.random.default_rng(number).permutation(len(groups))
    shuffled = [list(groups.values())[index] for index in order]
    wanted = len(category.test_normals)
    taken = 0
    for members in shuffled:
        split = "test" if taken < wanted else "train"
        taken += len(members) if split == "test" else 0
        for image in members:
            _copy(category.folder / image.path, made / split / "good" / _flat(image.path))
    for image in category.test_anomalies:
        _copy(category.folder / image.path, made / image.path)
        if image.mask is not None:
            _copy(category.folder / image.mask, made / image.mask)
    return made


def _flat(path: str) -> str:
    # The group is in the file name, which must stay at its beginning.
    source = Path(path)
    return f"{source.stem}-{source.parts[0]}{source.suffix}"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _fresh_sets(given: argparse.Namespace) -> Cell:
    """False alarms of one detector over freshly drawn calibration and test sets."""
    settings = laptop_settings(given.weights)
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as made:
        make_sample_set(Path(made))
        bundle = trained_bundle(Path(made) / "cloth", settings, _DETECTOR, 0, Path(made))
        return _counted(bundle, settings, given.sets, Path(made))


def _counted(bundle: Bundle, settings: Settings, sets: int, folder: Path) -> Cell:
    inspector = Inspector(bundle, open_scorer(bundle, settings.training.device))
    alphas = settings.calibration.model_dump()
    false_alarms = []
    for seed in range(1, sets + 1):
        scores = [
            image.score for image in inspector.inspect(_fresh_images(inspector, seed, folder))
        ]
        threshold = calibrate(scores[:_CALIBRATION], **alphas).reject
        false_alarms.append(sum(score > threshold.value for score in scores[_CALIBRATION:]))
    return {
        "n": _CALIBRATION,
        "m": _TEST,
        "rank": threshold.rank,
        "false_alarms": false_alarms,
        "commit": commit(),
        "machine": machine(choose_device(settings.training.device)),
    }


def _fresh_images(inspector: Inspector, seed: int, folder: Path) -> list[Pixels]:
    images = []
    for index in range(_CALIBRATION + _TEST):
        file = folder / "fresh.png"
        Image.fromarray(draw_image("cloth", "train", "good", index, seed=seed).pixels).save(file)
        images.append(inspector.read(file))
    return images


def render(
    splits: Sequence[Cell], fresh: Cell, command: str, *, grouped: Collection[str] = ()
) -> str:
    """The page: re-splits per category, and the fresh sets against the distribution.

    Args:
        splits: cells of re-splits.
        fresh: the cell of the fresh sets.
        command: what measured.
        grouped: categories with several images of one item.
    """
    lines = ["# The promised false-alarm rate, from files to verdicts", ""]
    lines += [origin(command, [*splits, fresh]), ""]
    head = ["category", "re-splits", "calibration", "test normals", "false alarms, mean"]
    head += ["within the 99 % interval"]
    by_category: dict[str, list[Cell]] = defaultdict(list)
    for cell in splits:
        by_category[cell["category"]].append(cell)
    lines += markdown(head, [_row(name, cells) for name, cells in by_category.items()])
    if several := sorted(by_category.keys() & set(grouped)):
        lines += [
            "",
            f"Several images of one item: {', '.join(several)}. Whole items go to one part, and "
            "the images of an item resemble each other: the interval, which is that of independent "
            "images, need not hold.",
        ]
    n, m, rank = fresh["n"], fresh["m"], fresh["rank"]
    low, high = interval(n, rank, m)
    counts = fresh["false_alarms"]
    inside = sum(low <= count <= high for count in counts)
    expected = betabinom(m, n + 1 - rank, rank).mean()
    lines += [
        "",
        f"Fresh sets of *cloth*: {len(counts)} times {n} calibration and {m} test normals, "
        f"{np.mean(counts):.2f} false alarms a set (expected: {expected:.2f}), {inside} of "
        f"{len(counts)} sets between {low} and {high}, where 99 % are expected.",
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, cells: Sequence[Cell]) -> list[str]:
    return [
        name,
        str(len(cells)),
        _range([cell["calibration"] for cell in cells]),
        _range([cell["test_normals"] for cell in cells]),
        f"{np.mean([cell['false_alarm_rate'] for cell in cells]):.3f}",
        f"{sum(map(is_within, cells))} of {len(cells)}",
    ]


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main()
