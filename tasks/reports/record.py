"""Read a retraining of one category from MLflow and its registry, for the report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Run

from stillwatch.bundle import INFO_FILE, BundleInfo, read_info
from stillwatch.errors import TrackingError
from stillwatch.evaluation.evaluation import ImageRow
from stillwatch.tasks.evaluation.gallery import ShownImage, read_shown_images
from stillwatch.tasks.evaluation.result import DetectorResult, read_result
from stillwatch.tasks.evaluation.scores import read_scores
from stillwatch.tasks.promotion.compare import COMPARISON_RECORD
from stillwatch.tasks.promotion.disagreement import Disagreement, read_disagreement
from stillwatch.tasks.registry.approval import GATE, ApprovalState, approval_state
from stillwatch.tasks.registry.judgement import Judgement, read_judgement
from stillwatch.tasks.registry.versions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    aliases_of,
    model_name,
    registered_version,
    versions_of,
)
from stillwatch.tasks.tracking.client import BUNDLE, Tracking
from stillwatch.tasks.tracking.tags import (
    EVALUATED,
    KIND,
    METHOD,
    PARENT,
    REASON,
    SEED,
    STAGE,
    TRAINED,
)
from stillwatch.tasks.training.candidates import DetectorSeed, list_candidates
from stillwatch.tasks.training.retraining_run import (
    DETECTORS,
    MODEL_VERSION,
    REGISTERED,
    RETRAINING,
    REUSED,
    SEEDS,
    WINNER,
    read_changed_settings,
    read_validation,
)
from stillwatch.tasks.validation.report import ValidationReport
from stillwatch.text import unknown_name


@dataclass(frozen=True)
class DetectorRecord:
    """One candidate: a detector with one seed."""

    candidate: DetectorSeed
    run_id: str | None
    """None: its training did not start."""
    reused: bool
    """Trained by an earlier retraining."""
    reason: str
    """Why its run failed; empty if it did not."""
    peak_memory_megabytes: float | None
    bundle: BundleInfo | None
    """None: it was not trained."""
    result: DetectorResult | None
    """None: it was not evaluated."""

    @property
    def name(self) -> str:
        """The detector's name, with the seed if there are several."""
        return self.candidate.name


@dataclass(frozen=True)
class VersionRecord:
    """The registered version of the retraining, in its present state."""

    number: int
    aliases: tuple[str, ...]
    created: bool
    """True: this retraining registered the version; False: an earlier one did."""
    approval: ApprovalState | None
    """Whether a person may promote the version; None also for a present or former champion."""
    tags: Mapping[str, str]
    judgement: Judgement | None
    """None: the gate has not judged the version."""


@dataclass(frozen=True)
class WinnerRecord:
    """The winning detector, trained with the first seed."""

    detector: str
    result: DetectorResult
    bundle: BundleInfo
    rows: list[ImageRow]
    images: tuple[ShownImage, ...]
    version: VersionRecord | None
    """None: the version was deleted from the registry."""
    comparison: Mapping[str, Any]
    """``comparison.json``; empty without a comparison with a champion."""
    disagreement: Disagreement | None
    """With that champion; None without a record."""


@dataclass(frozen=True)
class RetrainingRecord:
    """One retraining of one category."""

    category: str
    run_id: str
    started: int
    """Milliseconds since 1970."""
    status: str
    """MLflow's: FINISHED, FAILED, KILLED or RUNNING."""
    reason: str
    """Why the retraining failed; empty if it did not."""
    tags: Mapping[str, str]
    validation: ValidationReport
    changed_settings: Mapping[str, object]
    """The settings that differ from the defaults."""
    detectors: tuple[DetectorRecord, ...]
    """Ordered by detector, then by seed, the first seed first."""
    winner: WinnerRecord | None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of each detector."""
        return tuple(dict.fromkeys(one.candidate.seed for one in self.detectors))


def find_retraining(tracking: Tracking, category: str, version: int | None = None) -> str:
    """The run id of the category's newest retraining, or of the newest with this version.

    Raises:
        TrackingError: there is no such category, version or retraining.
    """
    known = tracking.categories()
    if category not in known:
        hint = f"{unknown_name('category', category, known)}." if known else "Nothing is there yet."
        raise TrackingError(f"{category} was never retrained: {hint}")
    tags = {KIND: RETRAINING}
    if version is not None:
        registered_version(tracking, category, version)
        tags[MODEL_VERSION] = str(version)
    runs = tracking.find_runs(category, tags)
    if not runs:
        which = "" if version is None else f" that ended with version {version}"
        raise TrackingError(
            f"no retraining of {category}{which} was recorded. Retrain: trained detectors are "
            "reused."
        )
    return str(runs[0].info.run_id)


def read_retraining(tracking: Tracking, run_id: str) -> RetrainingRecord:
    """Read one retraining; no image of the image set is read.

    Raises:
        TrackingError: a record is damaged.
        BundleError: a detector's ``bundle.json`` is damaged.
    """
    run = _run(tracking, run_id)
    tags = run.data.tags
    category = tags["stillwatch.category"]
    detectors = _detectors(tracking, category, run)
    return RetrainingRecord(
        category=category,
        run_id=run_id,
        started=run.info.start_time,
        status=run.info.status,
        reason=tags.get(REASON, ""),
        tags=tags,
        validation=read_validation(tracking, run_id),
        changed_settings=read_changed_settings(tracking, run_id),
        detectors=detectors,
        winner=_winner(tracking, run, detectors),
    )


def _run(tracking: Tracking, run_id: str) -> Run:
    with tracking.errors(f"read run {run_id}"):
        return tracking.client.get_run(run_id)


def _detectors(tracking: Tracking, category: str, parent: Run) -> tuple[DetectorRecord, ...]:
    tags = parent.data.tags
    seeds = [int(seed) for seed in tags[SEEDS].split(", ")]
    found = tracking.find_runs(category, {PARENT: parent.info.run_id})
    # If a training was interrupted and started again, the later run counts.
    runs = {_candidate(run, several=len(seeds) > 1).name: run for run in reversed(found)}
    competing = list_candidates(tags[DETECTORS].split(", "), seeds)
    reused = {one.name for one in competing if REUSED + one.name in tags}
    for name in reused:
        runs[name] = _run(tracking, tags[REUSED + name])
    return tuple(
        _detector(tracking, one, runs.get(one.name), reused=one.name in reused) for one in competing
    )


def _candidate(run: Run, *, several: bool) -> DetectorSeed:
    tags = run.data.tags
    return DetectorSeed(tags[METHOD], int(tags[SEED]), several)


def _detector(
    tracking: Tracking, candidate: DetectorSeed, run: Run | None, *, reused: bool
) -> DetectorRecord:
    if run is None:
        return DetectorRecord(candidate, None, reused, "", None, None, None)
    run_id, tags = str(run.info.run_id), run.data.tags
    stage = tags.get(STAGE)
    return DetectorRecord(
        candidate=candidate,
        run_id=run_id,
        reused=reused or "stillwatch.recalibrated_from" in tags,
        reason=tags.get(REASON, ""),
        peak_memory_megabytes=run.data.metrics.get("peak_memory_megabytes"),
        bundle=_bundle_info(tracking, run_id) if stage in (TRAINED, EVALUATED) else None,
        result=read_result(tracking, run_id) if stage == EVALUATED else None,
    )


def _bundle_info(tracking: Tracking, run_id: str) -> BundleInfo:
    with tracking.artifact(run_id, f"{BUNDLE}/{INFO_FILE}") as path:
        return read_info(path)


def _winner(
    tracking: Tracking, parent: Run, detectors: tuple[DetectorRecord, ...]
) -> WinnerRecord | None:
    name = parent.data.tags.get(WINNER)
    first = next((one for one in detectors if one.candidate.detector == name), None)
    if first is None or first.result is None or first.bundle is None:
        return None
    number = int(parent.data.tags[MODEL_VERSION])
    run_id = first.result.run_id
    comparison = _comparison(tracking, run_id, number)
    return WinnerRecord(
        detector=first.candidate.detector,
        result=first.result,
        bundle=first.bundle,
        rows=read_scores(tracking, run_id),
        images=read_shown_images(tracking, run_id),
        version=_version(tracking, first.result.category, number, parent),
        comparison=comparison,
        disagreement=read_disagreement(tracking, run_id, comparison.get("champion")),
    )


def _version(tracking: Tracking, category: str, number: int, parent: Run) -> VersionRecord | None:
    name = model_name(category)
    found = {int(one.version): one for one in versions_of(tracking, name)}.get(number)
    if found is None:
        return None
    aliases = aliases_of(tracking, name)
    return VersionRecord(
        number=number,
        aliases=tuple(
            alias for alias in (CHAMPION, CHALLENGER, PREVIOUS) if aliases.get(alias) == number
        ),
        created=parent.data.tags[REGISTERED] == "true",
        approval=approval_state(category, found, aliases.get(CHAMPION)),
        tags=found.tags,
        judgement=read_judgement(tracking, found) if GATE in found.tags else None,
    )


def _comparison(tracking: Tracking, run_id: str, number: int) -> Mapping[str, Any]:
    record: Mapping[str, Any] = COMPARISON_RECORD.read(tracking, run_id) or {}
    return record if record.get("challenger") == number else {}
