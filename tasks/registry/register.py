"""The winner of a category into the MLflow registry, if its reloaded copy is the same detector."""

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from prefect import task
from prefect.cache_policies import NO_CACHE

from stillwatch.comparison.comparison import Answer
from stillwatch.errors import TrackingError
from stillwatch.evaluation.evaluation import NORMAL, TestImages
from stillwatch.inference.parity import Scores, difference, tolerance_of
from stillwatch.settings import Settings, TrainingSettings
from stillwatch.tasks.data.examine import ExaminedCategory
from stillwatch.tasks.evaluation.notes import evaluation_note
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.scores import SCORES_FILE, read_scores
from stillwatch.tasks.evaluation.seeds import by_detector, spread_sentence
from stillwatch.tasks.evaluation.task import named_metrics
from stillwatch.tasks.evaluation.test_set import image_files, png, read_test_set
from stillwatch.tasks.evaluation.winner import choose_winner, eligible
from stillwatch.tasks.locks import exclusive
from stillwatch.tasks.promotion.gate import judge
from stillwatch.tasks.registry.approval import ANSWER, COMPARISON, NOT_PROMOTED, Standing, standing
from stillwatch.tasks.registry.cleanup import PARITY, delete_version, remove_unfinished
from stillwatch.tasks.registry.model_package import log_detector_model
from stillwatch.tasks.registry.reload import FreshProcess
from stillwatch.tasks.registry.versions import (
    CHALLENGER,
    CHAMPION,
    model_name,
    version_with_alias,
    versions_of,
)
from stillwatch.tasks.tracking.client import BUNDLE, Tracking, open_tracking
from stillwatch.tasks.tracking.entries import figures
from stillwatch.tasks.tracking.tags import FINGERPRINT, threshold_tags
from stillwatch.tasks.training.retraining_run import MODEL_VERSION, REGISTERED, WINNER
from stillwatch.tasks.training.slots import evaluation_device

SPREAD = "stillwatch.spread"
"""Of a version: what the seeds of its detector make of the figures, where there were several."""


@dataclass(frozen=True)
class Registration:
    """The category's winner in the registry."""

    category: str
    detector: str
    name: str
    version: int
    alias: str | None
    """None when an older version has none any more."""
    run_id: str
    created: bool
    """False: it was registered by an earlier retraining."""
    selected: str
    """The mark that its figures carry: they were used to choose it."""
    answer: Answer | None
    """The gate's; None where there was no champion, or none that could be compared."""
    comparison: str
    """The same as a sentence; empty where there was no champion."""
    approval: Standing | None
    """Whether a person can still make it champion; None also for what is or was champion."""
    not_promoted: str
    """Why it did not become champion by itself; empty for a champion."""


def register_winner(
    results: Sequence[DetectorResult],
    category: ExaminedCategory,
    *,
    settings: Settings,
    parent_run: str | None = None,
) -> Registration:
    """Register the best of a category's detectors, unless it is registered already.

    Of a detector with several seeds the first is registered, with the spread of all as a tag.

    The version is reloaded from the registry in a fresh process and must give the scores and
    verdicts of the evaluation; if it does not, it is deleted.

    Args:
        results: of one category, at least one; those of one detector are its seeds.
        category: the one that they were evaluated on.
        settings: all of them.
        parent_run: MLflow run of the whole retraining.

    Raises:
        SettingsError: no detector has the figure to select by, or none may win.
        TrackingError: parity failed, or the store does not answer.
    """
    competing = eligible(results, settings.retrain)
    winner = choose_winner(competing, settings.retrain.select_by)
    name = model_name(winner.category)
    detectors = by_detector(competing)
    selected = f"selected on test (best of {len(detectors)})"
    tracking = open_tracking(settings)
    with exclusive(settings, f"register-{winner.category}", f"registering {name}"):
        patience = timedelta(minutes=2 * settings.training.timeout_minutes)
        remove_unfinished(tracking, name, winner.run_id, patience)
        number = _registered_before(tracking, name, winner)
        created = number is None
        if number is None:
            number = _register(tracking, name, winner, selected, category, settings)
        said = spread_sentence(detectors[winner.detector])
        if said:
            _tag(tracking, name, number, SPREAD, said)
        judge(tracking, number, winner, competing, category, settings, just_checked=created)
    tracking.log(winner.run_id, tags={"stillwatch.selected_on_test": selected})
    if parent_run is not None:
        tags = {
            WINNER: winner.detector,
            MODEL_VERSION: number,
            REGISTERED: str(created).lower(),
        }
        tracking.log(parent_run, tags=tags)
    return _registration(tracking, name, number, winner, selected, created=created)


register_task = task(
    name="register",
    task_run_name="register {category.version.name}",
    cache_policy=NO_CACHE,
)(register_winner)


def _registered_before(tracking: Tracking, name: str, winner: DetectorResult) -> int | None:
    """The version that is this very detector: same training, same thresholds."""
    identity = {
        FINGERPRINT: winner.fingerprint,
        **threshold_tags(winner.threshold, winner.review_threshold),
    }
    for version in reversed(versions_of(tracking, name)):
        if PARITY in version.tags and identity.items() <= version.tags.items():
            return int(version.version)
    return None


def _register(
    tracking: Tracking,
    name: str,
    winner: DetectorResult,
    selected: str,
    category: ExaminedCategory,
    settings: Settings,
) -> int:
    # Waited for before anything is made: another machine deletes a version that is unfinished for
    # long.
    with evaluation_device(settings) as device, FreshProcess() as fresh:
        test = read_test_set(category, settings.evaluation)
        tags = _version_tags(tracking, winner, selected)
        with tracking.artifact(winner.run_id, BUNDLE) as bundle:
            model_id = log_detector_model(
                tracking,
                winner.run_id,
                name=name,
                bundle=bundle,
                example=_example(test),
                tags=tags,
                max_megapixels=settings.images.max_megapixels,
            )
        version = _create_version(tracking, name, winner, model_id, tags)
        try:
            training = settings.training.model_copy(update={"device": device})
            tolerance = _check_parity(
                tracking, fresh, version, winner, test, category.folder, training
            )
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
    # The last word: without it the next retraining registers again.
    said = f"reloaded scores equal to within {tolerance:.3g}"
    _tag(tracking, name, int(version.version), PARITY, said)
    return int(version.version)


def _create_version(
    tracking: Tracking, name: str, winner: DetectorResult, model_id: str, tags: dict[str, str]
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
            tags=tags,
        )


def _check_parity(
    tracking: Tracking,
    fresh: FreshProcess,
    version: ModelVersion,
    winner: DetectorResult,
    test: TestImages,
    folder: Path,
    training: TrainingSettings,
) -> float:
    """The tolerance to within which the reloaded model agrees."""
    model = f"models:/{version.name}/{version.version}"
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as made:
        registered = fresh.scores(
            tracking.uri,
            model,
            image_files(folder, test, Path(made)),
            device=training.device,
            timeout_seconds=60 * training.timeout_minutes,
            if_slow="Raise training.timeout_minutes or use a faster device.",
            if_broken="Run 'stillwatch doctor'; if it finds nothing, retrain with --force.",
        )
    evaluated = _evaluated_scores(tracking, winner.run_id, test)
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


def _evaluated_scores(tracking: Tracking, run_id: str, test: TestImages) -> Scores:
    rows = {row["path"]: row for row in read_scores(tracking, run_id)}
    try:
        ordered = [rows[path] for path in test.paths]
    except KeyError as error:
        raise TrackingError(
            f"{SCORES_FILE} of run {run_id} lacks the test image {error}. Retrain with --force."
        ) from error
    return Scores(tuple(r["score"] for r in ordered), tuple(r["verdict"] for r in ordered))


def _example(test: TestImages) -> list[bytes]:
    """Two images: a normal and, if there is one, an anomaly."""
    kinds = [kind == NORMAL for kind in test.defect_types]
    chosen = {kinds.index(kind) if kind in kinds else 0 for kind in (True, False)}
    return [png(test.images[index]) for index in sorted(chosen)]


def _version_tags(tracking: Tracking, winner: DetectorResult, selected: str) -> dict[str, str]:
    about_the_run = ("host", "process", "stage", "reason", "selected_on_test")
    tags = {
        key: value
        for key, value in tracking.tags(winner.run_id).items()
        if key.startswith("stillwatch.") and key.partition(".")[2] not in about_the_run
    }
    tags["stillwatch.selected_on_test"] = selected
    return tags | {name: f"{value:.6g}" for name, value in named_metrics(winner).items()}


def _registration(
    tracking: Tracking,
    name: str,
    number: int,
    winner: DetectorResult,
    selected: str,
    *,
    created: bool,
) -> Registration:
    """What became of the version, as the registry now says it."""
    champion = version_with_alias(tracking, name, CHAMPION)
    alias = CHAMPION if number == champion else None
    if alias is None and number == version_with_alias(tracking, name, CHALLENGER):
        alias = CHALLENGER
    with tracking.errors(f"look up version {number} of {name}"):
        version = tracking.client.get_model_version(name, str(number))
    return Registration(
        category=winner.category,
        detector=winner.detector,
        name=name,
        version=number,
        alias=alias,
        run_id=winner.run_id,
        created=created,
        selected=selected,
        answer=cast(Answer | None, version.tags.get(ANSWER) or None),
        comparison=version.tags.get(COMPARISON, ""),
        approval=standing(version, champion),
        not_promoted="" if number == champion else version.tags.get(NOT_PROMOTED, ""),
    )


def _tag(tracking: Tracking, name: str, number: int, key: str, value: str) -> None:
    with tracking.errors(f"tag version {number} of {name}"):
        tracking.client.set_model_version_tag(name, str(number), key, value)
