"""Register the winner of a category, and check that the reloaded version gives the same scores."""

import math
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from prefect import task
from prefect.cache_policies import NO_CACHE

from stillwatch.errors import TrackingError
from stillwatch.evaluation.evaluation import NORMAL, TestImages
from stillwatch.inference.parity import Scores, difference, tolerance_of
from stillwatch.settings import Settings, TrainingSettings
from stillwatch.tasks.data.examine import ExaminedCategory
from stillwatch.tasks.evaluation.notes import evaluation_note
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.scores import SCORES_FILE, read_scores
from stillwatch.tasks.evaluation.seeds import spread_sentence
from stillwatch.tasks.evaluation.task import named_metrics
from stillwatch.tasks.evaluation.test_set import (
    image_file,
    read_test_set,
    scaled_file,
)
from stillwatch.tasks.evaluation.winner import Choice
from stillwatch.tasks.locks import exclusive
from stillwatch.tasks.registry.cleanup import LAST_TAG, delete_version, remove_unfinished
from stillwatch.tasks.registry.model_package import log_detector_model
from stillwatch.tasks.registry.reload import FreshProcess
from stillwatch.tasks.registry.reload_record import record_reload
from stillwatch.tasks.registry.versions import model_name, tag_version, version_file, versions_of
from stillwatch.tasks.tracking.client import BUNDLE, Tracking, open_tracking
from stillwatch.tasks.tracking.entries import figures
from stillwatch.tasks.tracking.tags import FINGERPRINT, REGION, SELECTED, SPREAD, threshold_tags
from stillwatch.tasks.training.retraining_run import MODEL_VERSION, REGISTERED, WINNER
from stillwatch.tasks.training.slots import evaluation_device

_RECALLS = ("recall", "synthetic_recall")
_MOST_EXAMPLE_BYTES = 20_000_000


@dataclass(frozen=True)
class Registration:
    """The version of a category's winner."""

    version: int
    created: bool
    """False: an earlier retraining registered the version."""


def register_winner(
    choice: Choice,
    category: ExaminedCategory,
    *,
    settings: Settings,
    parent_run: str | None = None,
) -> Registration:
    """Register the winner of a category, unless it is registered already.

    A fresh process reloads the version from the registry and must get the scores and verdicts of
    the evaluation; if it does not, the version is deleted.

    Args:
        choice: the winner and the results that it was chosen from.
        category: on which the winner was evaluated.
        settings: of the category.
        parent_run: MLflow run of the whole retraining.

    Raises:
        TrackingError: the reloaded version gives other scores, or cannot be loaded.
    """
    winner = choice.winner
    name = model_name(winner.category)
    tracking = open_tracking(settings)
    with exclusive(settings, f"register-{winner.category}", f"registering {name}"):
        patience = timedelta(minutes=2 * settings.training.timeout_minutes)
        remove_unfinished(tracking, name, winner.run_id, patience)
        version = _registered_before(tracking, name, winner)
        created = version is None
        if version is None:
            version = _register(tracking, name, winner, category, settings)
    registration = Registration(int(version.version), created)
    spread = spread_sentence(choice.seeds)
    tags = {SELECTED: choice.selected, **({SPREAD: spread} if spread else {})}
    tracking.log(winner.run_id, tags=tags)
    if parent_run is not None:
        outcome = {
            WINNER: winner.detector,
            MODEL_VERSION: registration.version,
            REGISTERED: str(created).lower(),
        }
        tracking.log(parent_run, tags=outcome)
    return registration


register_task = task(
    name="register",
    task_run_name="register {category.version.name}",
    cache_policy=NO_CACHE,
)(register_winner)


def _registered_before(
    tracking: Tracking, name: str, winner: DetectorResult
) -> ModelVersion | None:
    """The oldest finished version with the same training, thresholds and region of interest."""
    identity = {
        FINGERPRINT: winner.fingerprint,
        **threshold_tags(winner.threshold, winner.review_threshold),
    }
    # Another region changes no threshold where no good image scores highest outside it.
    region = tracking.tags(winner.run_id).get(REGION)
    same = {
        run.info.run_id
        for run in tracking.find_runs(winner.category, identity)
        if run.data.tags.get(REGION) == region
    }
    for version in reversed(versions_of(tracking, name)):
        if version.run_id in same and LAST_TAG in version.tags:
            return version
    return None


def _register(
    tracking: Tracking,
    name: str,
    winner: DetectorResult,
    category: ExaminedCategory,
    settings: Settings,
) -> ModelVersion:
    # Wait for a device before anything is registered: another machine deletes a version that is
    # unfinished for long.
    with evaluation_device(settings) as device, FreshProcess() as fresh:
        test = read_test_set(category, settings.evaluation)
        with tracking.artifact(winner.run_id, BUNDLE) as bundle:
            model_id = log_detector_model(
                tracking,
                winner.run_id,
                name=name,
                bundle=bundle,
                example=example_images(category, test),
                max_megapixels=settings.images.max_megapixels,
            )
        version = _create_version(tracking, name, winner, model_id)
        try:
            training = settings.training.model_copy(update={"device": device})
            tolerance = _check_parity(tracking, fresh, version, winner, test, category, training)
            _record_reload(tracking, version, device, tolerance)
        except BaseException:
            with suppress(TrackingError):
                delete_version(tracking, version)
            raise
    tracking.log(
        winner.run_id,
        metrics=figures(
            named_metrics(winner),
            timestamp=winner.evaluated_at,
            dataset=(winner.category, winner.data_version),
            model_id=model_id,
        ),
    )
    # The last write: without its last tag, the next retraining registers the winner again.
    tag_version(tracking, version, _shown_figures(winner))
    return version


def _record_reload(
    tracking: Tracking, version: ModelVersion, device: str, tolerance: float
) -> None:
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as folder:
        package = version_file(tracking, version.name, int(version.version), "", Path(folder))
        record_reload(tracking, version, package, device, tolerance)


def _create_version(
    tracking: Tracking, name: str, winner: DetectorResult, model_id: str
) -> ModelVersion:
    with tracking.errors(f"register {name}"):
        client = tracking.client
        try:
            client.get_registered_model(name)
        except MlflowException:
            client.create_registered_model(
                name, description=f"Anomaly detectors of the category {winner.category}."
            )
        return client.create_model_version(
            name,
            source=client.get_logged_model(model_id).artifact_location,
            run_id=winner.run_id,
            model_id=model_id,
            description=evaluation_note(winner),
        )


def _check_parity(
    tracking: Tracking,
    fresh: FreshProcess,
    version: ModelVersion,
    winner: DetectorResult,
    test: TestImages,
    category: ExaminedCategory,
    training: TrainingSettings,
) -> float:
    """Compare the scores of the reloaded version with the evaluation; return the tolerance."""
    model = f"models:/{version.name}/{version.version}"
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as made:
        files = {
            path: file
            for number, path in enumerate(test.paths)
            if (file := image_file(category, test, number, Path(made))) is not None
        }
        registered = fresh.scores(
            tracking.uri,
            model,
            list(files.values()),
            device=training.device,
            timeout_seconds=60 * training.timeout_minutes,
            if_slow="Raise training.timeout_minutes or use a faster device.",
            if_broken="Run 'stillwatch doctor'; if it finds nothing, retrain with --force.",
        )
    evaluated = _evaluated_scores(tracking, winner.run_id, list(files))
    tolerance = tolerance_of(winner.threshold, evaluated.scores)
    thresholds = (winner.threshold, winner.review_threshold)
    problem = difference(evaluated, registered, thresholds, tolerance)
    if problem is not None:
        raise TrackingError(
            f"{model}: reloaded from the registry it is not the detector that was evaluated "
            f"({problem}), so the version was deleted. Retrain with --force; if it happens again, "
            "the device computes unreliably or the store alters files."
        )
    return tolerance


def _evaluated_scores(tracking: Tracking, run_id: str, paths: Sequence[str]) -> Scores:
    rows = {row["path"]: row for row in read_scores(tracking, run_id)}
    try:
        ordered = [rows[path] for path in paths]
    except KeyError as error:
        raise TrackingError(
            f"{SCORES_FILE} of run {run_id} lacks the test image {error}. Retrain with --force."
        ) from error
    return Scores(tuple(r["score"] for r in ordered), tuple(r["verdict"] for r in ordered))


def example_images(category: ExaminedCategory, test: TestImages) -> list[bytes]:
    """Two image files: a normal and, if there is one that a bundle can be given, an anomaly.

    They are scaled where a bundle takes scaled images: the file of a large image has megabytes.
    Of two files with more than 20 megabytes only the first is an example.
    """
    kinds = [kind == NORMAL for kind in test.defect_types]
    chosen = {kinds.index(kind) if kind in kinds else 0 for kind in (True, False)}
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as made:
        files = [_example_file(category, test, number, Path(made)) for number in sorted(chosen)]
        examples = [file.read_bytes() for file in files if file is not None]
    return examples if sum(map(len, examples)) <= _MOST_EXAMPLE_BYTES else examples[:1]


def _example_file(
    category: ExaminedCategory, test: TestImages, number: int, made: Path
) -> Path | None:
    if category.geometry is not None and category.geometry.box is not None:
        scaled = scaled_file(category, test, number, made)
        if scaled is not None:
            return scaled
    return image_file(category, test, number, made)


def _shown_figures(winner: DetectorResult) -> dict[str, str]:
    """The figures among the tags of a version; MLflow shows all others as metrics of its model."""
    named = named_metrics(winner)
    shown = {name: value for name, value in named.items() if name in _RECALLS}
    shown[LAST_TAG] = named.get(LAST_TAG, math.nan)
    return {name: f"{value:.6g}" for name, value in shown.items()}
