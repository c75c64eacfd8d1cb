"""Every method on the same images, trained and evaluated by the retrain flow itself.

One JSON file per category, detector and seed; a cell that is there with the same settings is not
run again unless the images are others, so that a benchmark that was stopped goes on where it was.
Renders ``docs/results.md``.

    .venv/bin/python -m benchmarks.accuracy --root mvtec --categories screw --out benchmarks/results

``benchmarks/results`` holds what was measured so far.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.bundle_images import read_pixels
from benchmarks.cells import changed_settings, complete, needed_teacher, read_cells, write_page
from benchmarks.light import against_calibration_auroc, same_light_auroc
from benchmarks.published_scores import published_score_auroc
from benchmarks.results_page import render
from benchmarks.revision import commit, machine
from stillwatch.bundle import Bundle, TrainingInfo, read_bundle
from stillwatch.detectors import detector_class, detector_classes, detector_settings
from stillwatch.devices import choose_device, choose_profile
from stillwatch.errors import StillwatchError
from stillwatch.evaluation.evaluation import NORMAL
from stillwatch.flows.retrain import run_retraining
from stillwatch.flows.servers.prefect_server import prefect_api
from stillwatch.images.layout import scan_category, visible_files
from stillwatch.images.photographs import photographs_digest
from stillwatch.inference.mapper import ImageMapper
from stillwatch.inference.torch_scorer import load_scorer
from stillwatch.settings import Settings, load_settings
from stillwatch.tasks.data.version import category_digest
from stillwatch.tasks.evaluation.result import FIGURE_NAMES
from stillwatch.tasks.inbox.rules import file_md5
from stillwatch.tasks.tracking.client import BUNDLE, open_tracking
from stillwatch.teachers.networks import NO_TEACHER

PAGE = Path("docs/results.md")


def main() -> None:
    """Run the cells that are missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--detectors", nargs="+", default=list(detector_classes()))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    try:
        _run_missing(given)
    except StillwatchError as error:
        sys.exit(str(error))
    write_page(given.page, render(list(read_cells(given.out))))


def _run_missing(given: argparse.Namespace) -> None:
    params = _own_params(given.params, given.out, given.categories)
    settings = load_settings(params)
    own = {name: settings.for_category(name) for name in given.categories}
    # All of them before the first training: what is wrong with the last is said at once.
    wanted = {
        (category, detector): relevant_settings(own[category], detector)
        for category, detector in product(given.categories, given.detectors)
    }
    for category in given.categories:
        _require_test_images(given.root / category)
    digests = {name: digest_of_images(given.root, name) for name in given.categories}
    with prefect_api(settings):
        for category, detector, seed in product(given.categories, given.detectors, given.seeds):
            file = given.out / cell_name(own[category], category, detector, seed)
            run = partial(_run, settings, params, given.root, category, detector, seed)
            wants = wanted[category, detector]
            complete(file, wants, run, category_digest=digests[category])


def digest_of_images(root: Path, category: str) -> str:
    """A category's digest as the flow records it."""
    folder = root / category
    files = visible_files(folder, root.resolve())
    return category_digest({path: file_md5(folder / path) for path in files})


def cell_name(settings: Settings, category: str, detector: str, seed: int) -> str:
    """File name of a cell: another teacher, size or setting has a cell, and a row, of its own."""
    own = detector_settings(detector, settings).model_dump(mode="json")
    changed = changed_settings(detector, choose_profile(settings.training), own)
    if detector_class(detector).uses_photographs(own) and not settings.training.photographs:
        changed.append("no_photographs")
    parts = [
        category,
        detector,
        _teacher(detector, settings)["name"],
        settings.images.size,
        *changed,
        seed,
    ]
    return f"{'-'.join(map(str, parts))}.json"


def relevant_settings(settings: Settings, detector: str) -> dict[str, Any]:
    """What a cell's figures depend on, the seed apart; no path, so that machines can share it."""
    sections = {"images", "split", "calibration", "evaluation"}
    values = settings.model_dump(mode="json", include=sections)
    own = detector_settings(detector, settings).model_dump(mode="json")
    method = detector_classes()[detector]
    photographs = settings.training.photographs if method.uses_photographs(own) else None
    return values | {
        "teacher": _teacher(detector, settings),
        "profile": choose_profile(settings.training),
        "detector": own,
        "method_version": method.version,
        "photographs": photographs and photographs_digest(photographs),
    }


def _teacher(detector: str, settings: Settings) -> dict[str, str | None]:
    """Name and expected digest; of a method that needs none, ``none``."""
    own = detector_settings(detector, settings).model_dump(mode="json")
    name = needed_teacher(detector, settings.teacher.name, own)
    return {"name": name, "sha256": None if name == NO_TEACHER else settings.teacher.sha256}


def _own_params(base: Path, out: Path, categories: Sequence[str]) -> Path:
    """The given settings with a state folder of the benchmark's own, where baselines may win."""
    values = load_settings(base).model_dump(mode="json")
    values["state_dir"] = str((out / "state").resolve())
    values["retrain"]["allow_baselines"] = True
    values["categories"] = {k: v for k, v in values["categories"].items() if k in categories}
    out.mkdir(parents=True, exist_ok=True)
    params = out / "params.yaml"
    params.write_text(yaml.safe_dump(values), encoding="utf-8")
    return params


def _require_test_images(folder: Path) -> None:
    category = scan_category(folder)
    if not category.test_normals or not category.test_anomalies:
        sys.exit(f"{folder}: the benchmark needs good and defective test images.")


def _run(
    settings: Settings, params: Path, root: Path, category: str, detector: str, seed: int
) -> dict[str, Any]:
    report = run_retraining(
        settings,
        params=params,
        root=root,
        categories=[category],
        detectors=[detector],
        seeds=[seed],
    )
    found = report.categories[category]
    if detector not in found.detectors:
        sys.exit(f"{category}/{detector}, seed {seed}: {found.reason}")
    (done,) = found.detectors[detector].values()
    with open_tracking(settings).artifact(done.run_id, BUNDLE) as folder:
        bundle = read_bundle(folder)
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        opinions = _second_opinions(bundle, root / category, settings)
    return {
        "category_digest": digest_of_images(root, category),
        "category": category,
        "detector": detector,
        "seed": seed,
        "commit": commit(),
        "machine": machine(choose_device(settings.training.device)),
        "report": dict.fromkeys(FIGURE_NAMES)
        | done.metrics
        | {"ms_per_image": done.ms_per_image, "train_seconds": done.train_seconds},
        "taken_over": _taken_over(bundle.info.training),
        "megabytes": size / 1e6,
        **opinions,
    }


def _taken_over(training: TrainingInfo) -> dict[str, float | None]:
    """Seconds of the phases that another training has trained; None where nobody wrote them down.

    Those of the phases that the training itself trained are in its own.
    """
    own = {epoch.phase for epoch in training.losses}
    taken_over = training.taken_over.keys() | (training.kept_epochs.keys() - own)
    return {phase: training.taken_over.get(phase) for phase in sorted(taken_over)}


def _second_opinions(bundle: Bundle, folder: Path, settings: Settings) -> dict[str, float | None]:
    """Image AUROCs that decide nothing: in the same light, and of the paper's own score."""
    scorer = load_scorer(bundle, settings.training.device)
    mapper = ImageMapper(scorer, bundle.info.geometry, bundle.info.combination)
    category = scan_category(folder)
    files = [*category.test_normals, *category.test_anomalies]
    test = read_pixels(folder, files, bundle.info)
    normals = read_pixels(folder, category.train_normals, bundle.info)
    anomalous = np.array([image.defect_type != NORMAL for image in files])
    calibration = bundle.info.calibration.scores
    return {
        "against_calibration_auroc": against_calibration_auroc(
            mapper.scores(test), anomalous, calibration
        ),
        "same_light_auroc": same_light_auroc(mapper, test, anomalous, normals),
        "published_score_auroc": published_score_auroc(scorer, np.stack(test), anomalous),
    }


if __name__ == "__main__":
    main()
