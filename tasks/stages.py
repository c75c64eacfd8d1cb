"""Run the stages of ``dvc.yaml``: the task functions of the flow, without any server.

Usage: ``python -m stillwatch.tasks.stages STAGE CATEGORY [DETECTOR]``, in the workspace.
"""

import csv
import sys
from argparse import ArgumentParser
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from stillwatch.bundle import read_bundle
from stillwatch.errors import LayoutError, StillwatchError, WorkspaceError
from stillwatch.evaluation.metrics import roc_curve
from stillwatch.files import atomic_file, write_json
from stillwatch.machine.threads import set_thread_policy
from stillwatch.settings import Settings, load_settings
from stillwatch.tasks.data.examine import ExaminedCategory, examine_category
from stillwatch.tasks.data.version import (
    DataVersion,
    ensure_categories_exist,
    matches_tracked,
    version_image_set,
)
from stillwatch.tasks.data.workspace import open_workspace
from stillwatch.tasks.evaluation.scores import read_scores
from stillwatch.tasks.evaluation.task import evaluate_detector, feedback_metrics
from stillwatch.tasks.tracking.client import BUNDLE, open_tracking
from stillwatch.tasks.training.candidates import DetectorSeed
from stillwatch.tasks.training.task import train_detector
from stillwatch.tasks.validation.task import validate_images
from stillwatch.text import unknown_name

RESULTS = Path("results")


def validate_stage(settings: Settings, category: str) -> None:
    """Check a category; write ``results/<category>/validation.{html,json}``.

    Raises:
        ValidationError: a critical check failed.
    """
    data, examined, own = _examined(settings, category)
    report = validate_images(
        examined.manifest,
        folder=examined.folder,
        page=RESULTS / category / "validation.html",
        settings=own,
        data_version=data.name,
    )
    report.raise_if_failed()
    write_json(RESULTS / category / "validation.json", asdict(report))


def train_stage(settings: Settings, category: str, detector: str) -> None:
    """Train, calibrate and evaluate; write metrics and plots to ``results/<category>/<detector>``.

    The run, its bundle and its pictures are in MLflow, as after the flow.
    """
    data, examined, own = _examined(settings, category)
    candidate = DetectorSeed(detector, own.training.seed)
    trained = train_detector(examined, candidate, data=data, settings=own)
    result = evaluate_detector(trained, examined, data=data, settings=own)
    folder = RESULTS / category / detector
    write_json(
        folder / "metrics.json",
        {
            "synthetic": result.synthetic,
            **result.metrics,
            **feedback_metrics(result),
            "threshold": result.threshold,
        },
    )
    tracking = open_tracking(settings)
    scores = read_scores(tracking, result.run_id)
    curve = roc_curve(
        [row["label"] for row in scores],
        [row["score"] for row in scores],
    )
    _write_csv(folder / "roc.csv", ("fpr", "tpr"), zip(curve.x, curve.y, strict=True))
    with tracking.artifact(result.run_id, BUNDLE) as bundle:
        losses = read_bundle(bundle).info.training.losses
    _write_csv(
        folder / "losses.csv",
        ("step", "train_loss", "validation_loss"),
        ((step, one.train_loss, one.validation_loss) for step, one in enumerate(losses)),
    )


def main() -> int:
    """Run one stage; an error is one sentence on stderr and exit code 1."""
    parser = ArgumentParser(description=__doc__)
    stages = parser.add_subparsers(required=True, dest="stage")
    for stage in ("validate", "train"):
        arguments = stages.add_parser(stage)
        arguments.add_argument("category")
        if stage == "train":
            arguments.add_argument("detector")
    given = parser.parse_args()
    try:
        settings = load_settings(Path("params.yaml"))
        set_thread_policy(settings.runtime.threads)
        if given.stage == "validate":
            validate_stage(settings, given.category)
        else:
            train_stage(settings, given.category, given.detector)
    except StillwatchError as error:
        sys.stderr.write(f"stillwatch: {error}\n")
        return 1
    return 0


def _examined(settings: Settings, category: str) -> tuple[DataVersion, ExaminedCategory, Settings]:
    """The data version, the category's images and the category's own settings."""
    workspace = open_workspace(settings)
    ensure_categories_exist(settings, workspace.data)
    # While DVC runs a stage, the stage must not change its own dependencies.
    if not matches_tracked(workspace, settings):
        raise WorkspaceError(
            f"{workspace.data}: differs from {workspace.dvc_file.name} at HEAD. Run "
            "'stillwatch data add' first, then 'dvc repro'."
        )
    data = version_image_set(workspace, settings)
    if category not in data.categories:
        known = list(data.categories)
        raise LayoutError(f"{data.root}: {unknown_name('category', category, known)}.")
    version = data.categories[category]
    own = settings.for_category(category)
    return data, examine_category(version, root=data.root, settings=own), own


def _write_csv(path: Path, names: tuple[str, ...], rows: Iterable[tuple[float, ...]]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
