"""One-class novelty detection: one class is normal, all others are anomalies.

The protocol in which the papers report MNIST, Fashion-MNIST and CIFAR-10 beside MVTec AD. A method
trains on the training images of one class and scores the whole test part; the figure is the image
AUROC, the mean over the classes. Scikit-learn's handwritten digits need no files.

One JSON file per data set, class, detector and seed; a cell that is there with the same settings is
not run again. Renders ``docs/novelty.md``.

    .venv/bin/python -m benchmarks.novelty --dataset digits --out results/novelty
    .venv/bin/python -m benchmarks.novelty --dataset mnist --folder DIR --out results/novelty
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from sklearn.metrics import roc_auc_score

from benchmarks.cells import Cell, complete, read_cells, write_page
from benchmarks.novelty_data import (
    CLASSES,
    DATASETS,
    OneClass,
    Part,
    one_class,
    read_dataset,
)
from benchmarks.novelty_page import render
from benchmarks.published_scores import published_score_auroc
from benchmarks.revision import commit, machine
from stillwatch.detectors import build_detector, detector_classes, parse_detector_settings
from stillwatch.devices import choose_device
from stillwatch.errors import StillwatchError
from stillwatch.geometry import fitted
from stillwatch.inference.mapper import ImageMapper
from stillwatch.inference.torch_scorer import TorchScorer
from stillwatch.settings import TeacherSettings, TrainingSettings
from stillwatch.teachers.networks import load_teacher
from stillwatch.training.loop import train

PAGE = Path("docs/novelty.md")
FEWEST_NORMALS = 2
"""One to train on and one to watch the training."""
SIDES = range(32, 513, 32)
"""Of images that every teacher's levels divide evenly."""

OWN_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "uninformed_students": {
        "student_input": "pixels",
        "patch_sizes": (33,),
        "students": 5,
        "epochs": 6,
        "least_steps": 1,
    },
}
"""Where a method's defaults are not for small images: the authors' patch and number of students in
this protocol, and few steps, since a patch, which is a whole image here, is soon learnt."""
OWN_SIDES = {"uninformed_students": 33}
"""Where a method ties the image's side to something else: one patch is the whole image."""
_SIDE_HELP = f"side that images are resized to, a multiple of 32; fixed for {', '.join(OWN_SIDES)}"


def main(arguments: Sequence[str]) -> None:
    """Run the cells that are missing, then write the page."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.normals is not None and given.normals < FEWEST_NORMALS:
        parser.error(f"--normals is {given.normals}, and must be at least {FEWEST_NORMALS}")
    try:
        _run_missing(given)
    except StillwatchError as error:
        sys.exit(str(error))
    command = f"python -m benchmarks.novelty {shlex.join(arguments)}"
    write_page(given.page, render(list(read_cells(given.out)), command))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    methods = list(detector_classes())
    add = parser.add_argument
    add("--dataset", choices=DATASETS, required=True)
    add("--folder", type=Path, default=Path(), help="where torchvision finds its files")
    add("--classes", nargs="+", type=int, choices=CLASSES, default=list(CLASSES))
    add("--detectors", nargs="+", choices=methods, default=methods)
    add("--seeds", nargs="+", type=int, default=[0])
    add("--side", type=int, choices=SIDES, metavar="PIXELS", default=64, help=_SIDE_HELP)
    add("--normals", type=int, help="training images of a class, at most; all if not given")
    add("--teacher", default=TeacherSettings().name)
    add("--out", type=Path, required=True)
    add("--page", type=Path, default=PAGE)
    return parser


def _run_missing(given: argparse.Namespace) -> None:
    parts = read_dataset(given.dataset, given.folder)
    for normal, detector, seed in product(given.classes, given.detectors, given.seeds):
        file = given.out / f"{given.dataset}-{normal}-{detector}-{seed}.json"
        settings = cell_settings(given, detector)
        what = {"dataset": given.dataset, "class": normal, "detector": detector, "seed": seed}
        complete(file, settings, partial(_run, parts, what, settings))


def cell_settings(given: argparse.Namespace, detector: str) -> dict[str, Any]:
    """The settings that a cell's figures depend on; its data set, class and seed apart."""
    own = parse_detector_settings(detector, OWN_SETTINGS.get(detector, {}))
    return {
        "side": OWN_SIDES.get(detector, given.side),
        "normals": given.normals,
        "teacher": given.teacher,
        "detector": own.model_dump(mode="json"),
        "method_version": detector_classes()[detector].version,
    }


def _run(parts: tuple[Part, Part], what: Cell, settings: Cell) -> Cell:
    images = one_class(parts, what["class"], side=settings["side"], normals=settings["normals"])
    figures = evaluate(
        images, what["detector"], settings["detector"], settings["teacher"], what["seed"]
    )
    return {**what, **figures, "commit": commit()}


def evaluate(
    images: OneClass, name: str, settings: Mapping[str, Any], teacher: str, seed: int
) -> dict[str, Any]:
    """Train a method on one class and score the test images, by the paths that the flow takes."""
    device = choose_device("auto")
    strides = detector_classes()[name].teacher_strides(teacher, settings)
    loaded = load_teacher(TeacherSettings(name=teacher), strides)
    detector = build_detector(name, loaded, settings, seed=seed)
    side = images.train.shape[1]
    geometry = fitted([(side, side)], side)
    summary = train(
        detector,
        train_images=list(images.train),
        validation_images=list(images.validation),
        geometry=geometry,
        settings=TrainingSettings(seed=seed),
        device=device,
        checkpoint=None,
        on_epoch=lambda _: None,
    )
    scorer = TorchScorer(detector, device)
    scores = ImageMapper(scorer, geometry, summary.combination).scores(images.test)
    return {
        "machine": machine(device),
        "train_normals": len(images.train),
        "train_seconds": summary.seconds,
        "image_auroc": float(roc_auc_score(images.anomalous, scores)),
        "published_score_auroc": published_score_auroc(scorer, images.test, images.anomalous),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
